"""Features of given encoders, or given as arrays, that the first clusters are of.

config.labels.features_from is a work directory (of a run or of imported weights), an
export, or a directory of arrays.
"""

import os

import numpy as np

from xdc_tf.data import dataset_info
from xdc_tf.data.dataset_info import DatasetInfo
from xdc_tf.data.payloads import AUDIO
from xdc_tf.runtime import arrays
from xdc_tf.training import exported_run, supervision
from xdc_tf.training.configuration import Config
from xdc_tf.training.trained_run import TrainedRun

_SUFFIX = ".npy"


def streams(config: Config, method: supervision.Method) -> frozenset[str]:
    """The streams of a method that config.labels.features_from has features of.

    Raises:
      FileNotFoundError, ValueError: see `check`.
    """
    directory = config.labels.features_from
    if not directory:
        return frozenset()
    if has_arrays(directory):
        return frozenset(
            stream
            for stream in method.streams
            if os.path.exists(array_path(directory, stream))
        )
    modalities = exported_run.open_directory(directory).streams.values()
    return frozenset(
        stream for stream, modality in method.streams.items() if modality in modalities
    )


def sources(config: Config, method: supervision.Method) -> frozenset[str]:
    """The label sources all of whose streams are among `streams`."""
    taught = streams(config, method)
    return frozenset(
        source
        for source, clustered in supervision.clustered_sources(method).items()
        if taught.issuperset(clustered)
    )


def check(
    config: Config, method: supervision.Method, info: DatasetInfo, records_dir: str
) -> None:
    """Checks, before a run begins, that its teacher can teach it.

    Args:
      config: of the run.
      method: of the run.
      info: of its records.
      records_dir: of its records, for messages.

    Raises:
      FileNotFoundError: if the directory is not there or holds nothing of the kind.
      ValueError: if it has no features of a source of the method, arrays that are not
        [rows of the manifest, D] numbers, or encoders of audio that take another
        log-mel than the records have.
    """
    labels = config.labels
    if not labels.features_from:
        return
    where = f"config.labels.features_from={labels.features_from}"
    if labels.first_from:
        raise ValueError(
            f"{where} and config.labels.first_from={labels.first_from} both say what "
            "the first labels are; leave one out."
        )
    if not sources(config, method):
        raise ValueError(
            f"{where} has no features for any label source of {config.method}, "
            f"{list(supervision.clustered_sources(method))}; give encoders of these "
            f"streams, or arrays STREAM{_SUFFIX}."
        )
    if has_arrays(labels.features_from):
        for stream in streams(config, method):
            open_array(labels.features_from, stream, info)
        return
    trained = exported_run.open_directory(labels.features_from)
    if any(method.streams[stream] == AUDIO for stream in streams(config, method)):
        rate = trained.config.log_mel.sample_rate_hz
        dataset_info.check_audio(info, trained.audio, rate, records_dir)


def has_arrays(directory: str) -> bool:
    """Whether features are given as arrays.

    Raises:
      FileNotFoundError: if there is no such directory.
    """
    if not os.path.isdir(directory):
        raise FileNotFoundError(
            f"config.labels.features_from={directory} is no directory; check the path."
        )
    return any(name.endswith(_SUFFIX) for name in os.listdir(directory))


def array_path(directory: str, stream: str) -> str:
    """The file of a stream's features."""
    return os.path.join(directory, stream + _SUFFIX)


def open_array(directory: str, stream: str, info: DatasetInfo) -> np.ndarray:
    """[num_rows, D] floating features by example_index, a read-only memory map.

    Raises:
      ValueError: if the file holds something else.
    """
    path = array_path(directory, stream)
    array = arrays.open_npy(path)
    if array.ndim != 2 or array.dtype.kind != "f" or len(array) != info.num_rows:
        raise ValueError(
            f"{path} holds {array.dtype} {array.shape}, and features are floating, of "
            f"shape [{info.num_rows}, D]: a row for each row of the manifest."
        )
    return array


def stream_of(trained: TrainedRun, modality: str) -> str:
    """The first stream of trained encoders that sees a modality."""
    return next(name for name, seen in trained.streams.items() if seen == modality)
