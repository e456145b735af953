"""Converts the media of a manifest to TFRecords.

    python -m data_prep.convert --manifest=videos.csv --out=records/

reads the manifest (CSV with the column path and optionally start_secs, end_secs, label)
and writes shards of records, dataset_info.json, examples.csv and quarantine.csv. With
--modalities=video, files without audio are converted too, and none is read; with
--modalities=audio, sound files and the audio of videos.

Interrupted, the same command goes on. --runner=NAME converts by Apache Beam instead of
on this machine alone; --beam_option=NAME=VALUE, as often as needed, is for Beam:

    python -m data_prep.convert --manifest=s3://bucket/videos.csv \
        --out=s3://bucket/records --runner=FlinkRunner \
        --beam_option=flink_master=host:8081

--dask=tcp://host:8786 does so on a Dask cluster, --dask=local on one of this machine.
"""

import contextlib

from absl import flags

from data_prep.conversion_settings import ConversionSettings
from data_prep.engines import dask_flags
from data_prep.worker import Limits
from xdc_tf.data import payloads
from xdc_tf.data.log_mel import LogMelSettings
from xdc_tf.data.payloads import MODALITIES
from xdc_tf.runtime import program

_SETTINGS = ConversionSettings()
_LIMITS = Limits()
_LOG_MEL = LogMelSettings()

_MANIFEST = flags.DEFINE_string(
    "manifest",
    None,
    "CSV with the columns path[,start_secs,end_secs,label].",
    required=True,
)
_OUT = flags.DEFINE_string(
    "out",
    None,
    "Directory for the records, local or remote (such as s3://...).",
    required=True,
)
_LABELS = flags.DEFINE_string(
    "labels",
    None,
    "File of label names, one a line, whose order numbers them; default: labels.txt "
    "beside the manifest, or else the manifest's own labels, sorted.",
)
_MODALITIES = flags.DEFINE_list(
    "modalities", list(MODALITIES), "What to store: video, audio, or video,audio."
)
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers",
    None,
    "Processes that decode; default: one per CPU. With --runner or --dask=ADDRESS for "
    "each of their tasks, default one; with --dask=local the cluster's workers.",
    lower_bound=1,
)
_RUNNER = flags.DEFINE_string(
    "runner",
    None,
    "Apache Beam runner that converts: DirectRunner, FlinkRunner, SparkRunner, "
    "DataflowRunner; default: this machine, without Beam.",
)
_BEAM_OPTIONS = flags.DEFINE_multi_string(
    "beam_option", [], "Option of Beam's own, as NAME=VALUE or NAME; may be repeated."
)
flags.adopt_module_key_flags(dask_flags)
_FPS = flags.DEFINE_float("fps", _SETTINGS.fps, "Frames per second to store.")
_SHORT_SIDE = flags.DEFINE_integer(
    "short_side", _SETTINGS.short_side, "Pixels of a frame's shorter side."
)
_JPEG_QUALITY = flags.DEFINE_integer(
    "jpeg_quality", _SETTINGS.jpeg_quality, "1 to 95, as libjpeg counts it."
)
_ROWS_PER_SHARD = flags.DEFINE_integer(
    "rows_per_shard", 64, "Rows per file of records."
)
_SEGMENT_SECS = flags.DEFINE_float(
    "segment_secs", None, "Cut recordings into rows of this length."
)
_MAX_SEGMENTS = flags.DEFINE_integer(
    "max_segments", None, "Segments per recording at most, evenly spread over it."
)
_PAYLOADS = flags.DEFINE_multi_string(
    "payload",
    [],
    "What to store in place of JPEG images or log-mel, a row of xdc_tf.data.payloads: "
    "NAME, or NAME:KEY=VALUE,KEY=VALUE with its settings; once for each modality.",
)
_STORE_WAVEFORM = flags.DEFINE_bool(
    "store_waveform", False, "Store the waveform beside its log-mel."
)
_MIN_SECS = flags.DEFINE_float(
    "min_secs", _SETTINGS.min_secs, "Quarantine what is shorter."
)
_MAX_SECS = flags.DEFINE_float(
    "max_secs",
    _SETTINGS.max_secs,
    "Quarantine what is longer; bounds the memory of a worker.",
)
_KEEP_TRUNCATED = flags.DEFINE_bool(
    "keep_truncated",
    False,
    "Keep what decodes before a file's first error; truncated.csv lists these rows.",
)
_MAX_LENGTH_RATIO = flags.DEFINE_float(
    "max_length_ratio",
    _SETTINGS.max_length_ratio,
    "Quarantine if video or audio is this many times longer than the other, and by "
    "more than a second.",
)
_MAX_FILE_MIB = flags.DEFINE_float(
    "max_file_mib", _SETTINGS.max_file_mib, "Quarantine larger files."
)
_MAX_MEGAPIXELS = flags.DEFINE_float(
    "max_megapixels", _SETTINGS.max_megapixels, "Quarantine files with larger frames."
)
_MAX_FRAMES = flags.DEFINE_integer(
    "max_frames",
    _SETTINGS.max_frames,
    "Quarantine rows with more frames to decode, whatever is stored of them.",
)
_TIMEOUT_SECS = flags.DEFINE_float(
    "timeout_secs", _LIMITS.timeout_secs, "Quarantine what takes longer to decode."
)
_WORKER_MEMORY_MIB = flags.DEFINE_float(
    "worker_memory_mib",
    _LIMITS.memory_mib,
    "Quarantine what takes more memory to decode.",
)
_LOG_MEL_FLAGS = (
    flags.DEFINE_integer(
        "sample_rate_hz", _LOG_MEL.sample_rate_hz, "Sample rate of the mono waveform."
    ),
    flags.DEFINE_float("window_ms", _LOG_MEL.window_ms, "Hann window of the log-mel."),
    flags.DEFINE_float("hop_ms", _LOG_MEL.hop_ms, "Time from one frame to the next."),
    flags.DEFINE_integer("fft_size", _LOG_MEL.fft_size, "FFT size in samples."),
    flags.DEFINE_integer("num_filters", _LOG_MEL.num_filters, "Mel filters."),
    flags.DEFINE_float("min_hz", _LOG_MEL.min_hz, "Lower edge of the first filter."),
    flags.DEFINE_float("max_hz", _LOG_MEL.max_hz, "Upper edge of the last filter."),
    flags.DEFINE_float(
        "log_offset", _LOG_MEL.log_offset, "Added before the logarithm."
    ),
)


def main(argv: list[str]) -> None:
    """Runs the conversion."""
    del argv
    if _BEAM_OPTIONS.value and not _RUNNER.value:
        raise ValueError(
            f"--beam_option={_BEAM_OPTIONS.value[0]} needs --runner, the Beam runner."
        )
    if _RUNNER.value and dask_flags.DASK.value:
        raise ValueError(
            f"--runner={_RUNNER.value} and --dask={dask_flags.DASK.value} are two "
            "ways to convert; give one."
        )
    # After the flags are parsed, so that --help answers at once; and outside the top
    # level, which every worker process imports.
    from data_prep.conversion import convert_manifest
    from data_prep.engines.beam_runner import BeamRunner
    from data_prep.segments import Segmentation
    from data_prep.worker_processes import PoolSettings

    settings = ConversionSettings(
        fps=_FPS.value,
        short_side=_SHORT_SIDE.value,
        jpeg_quality=_JPEG_QUALITY.value,
        min_secs=_MIN_SECS.value,
        max_secs=_MAX_SECS.value,
        store_waveform=_STORE_WAVEFORM.value,
        log_mel=LogMelSettings._make(flag.value for flag in _LOG_MEL_FLAGS),
        modalities=tuple(_MODALITIES.value),
        keep_truncated=_KEEP_TRUNCATED.value,
        max_length_ratio=_MAX_LENGTH_RATIO.value,
        max_file_mib=_MAX_FILE_MIB.value,
        max_megapixels=_MAX_MEGAPIXELS.value,
        max_frames=_MAX_FRAMES.value,
        payloads=payloads.parse(_PAYLOADS.value),
    )
    num_workers = dask_flags.pool_size(_NUM_WORKERS.value)
    engine = dask_flags.engine(_NUM_WORKERS.value)
    if _RUNNER.value:
        num_workers = _NUM_WORKERS.value or 1
        engine = contextlib.nullcontext(BeamRunner(_RUNNER.value, _BEAM_OPTIONS.value))
    with engine as opened:
        convert_manifest(
            _MANIFEST.value,
            _OUT.value,
            settings=settings,
            pool=PoolSettings(
                num_workers, Limits(_TIMEOUT_SECS.value, _WORKER_MEMORY_MIB.value)
            ),
            rows_per_shard=_ROWS_PER_SHARD.value,
            segmentation=Segmentation(_SEGMENT_SECS.value, _MAX_SEGMENTS.value),
            labels=_LABELS.value,
            engine=opened,
        )


def run() -> None:
    """Entry point of the console script."""
    program.run(main)


if __name__ == "__main__":
    run()
