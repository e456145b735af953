"""Flags of the commands that take new videos, and of their conversion."""

import contextlib

from absl import flags

from data_prep.engines import dask_flags

VIDEOS = flags.DEFINE_string(
    "videos",
    None,
    "Folder of video files, searched to its depths; manifest, CSV with the columns "
    "path[,start_secs,end_secs,label]; or directory of records.",
)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    None,
    "Clips per batch; default: the run's features.batch_size, 16 for imported weights.",
    lower_bound=1,
)
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers",
    None,
    "Number of decoding processes; default: one per CPU. With --dask=ADDRESS "
    "of each of its tasks, default one; with --dask=local the cluster's workers.",
    lower_bound=1,
)
_ROWS_PER_PART = flags.DEFINE_integer(
    "rows_per_part",
    256,
    "Video files that are converted, to a directory beside --out, before they are used "
    "and deleted.",
    lower_bound=1,
)
_MIN_SECS = flags.DEFINE_float("min_secs", 0.1, "Quarantine videos that are shorter.")
_MAX_SECS = flags.DEFINE_float(
    "max_secs",
    600.0,
    "Quarantine videos that are longer; bounds the memory of a worker.",
)
_TIMEOUT_SECS = flags.DEFINE_float(
    "timeout_secs", 600.0, "Quarantine videos that take longer to decode."
)


flags.adopt_module_key_flags(dask_flags)


@contextlib.contextmanager
def conversion():
    """Gives the flags' `xdc_tf.inference.parts.Conversion`; imports TensorFlow."""
    from xdc_tf.inference.parts import Conversion

    with dask_flags.engine(_NUM_WORKERS.value) as engine:
        yield Conversion(
            num_workers=dask_flags.pool_size(_NUM_WORKERS.value),
            rows_per_part=_ROWS_PER_PART.value,
            min_secs=_MIN_SECS.value,
            max_secs=_MAX_SECS.value,
            timeout_secs=_TIMEOUT_SECS.value,
            engine=engine,
        )
