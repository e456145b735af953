"""Videos -> TFRecords.

    python -m data_prep.convert --manifest=videos.csv --out=records/

reads the manifest (CSV with the column path and optionally start_secs, end_secs, label)
and writes shards of records, dataset_info.json, examples.csv and quarantine.csv. With
--modalities=video, files without sound are converted too, and none is read.
"""

import os

from absl import flags

from xdc_tf import program
from xdc_tf.data.dataset_info import MODALITIES
from xdc_tf.data.log_mel import LogMelSettings

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
_MODALITIES = flags.DEFINE_list(
    "modalities", list(MODALITIES), "What to store: video, or video,audio."
)
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers", None, "Processes that decode; default: one per CPU.", lower_bound=1
)
_FPS = flags.DEFINE_float("fps", 30.0, "Frames per second to store.")
_SHORT_SIDE = flags.DEFINE_integer(
    "short_side", 256, "Pixels of a frame's shorter side."
)
_JPEG_QUALITY = flags.DEFINE_integer("jpeg_quality", 90, "1 to 95.")
_ROWS_PER_SHARD = flags.DEFINE_integer(
    "rows_per_shard", 64, "Manifest rows per file of records."
)
_STORE_WAVEFORM = flags.DEFINE_bool(
    "store_waveform", False, "Store the waveform beside its log-mel."
)
_MIN_SECS = flags.DEFINE_float("min_secs", 0.5, "Quarantine what is shorter.")
_MAX_SECS = flags.DEFINE_float(
    "max_secs", 300.0, "Quarantine what is longer; bounds the memory of a worker."
)
_TIMEOUT_SECS = flags.DEFINE_float(
    "timeout_secs", 300.0, "Quarantine what takes longer to decode."
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
    # The processes are the parallelism; one thread each also for matrix products.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # After the flags are parsed, so that --help answers at once; and outside the top
    # level, which every worker process imports.
    from data_prep import shards, workers

    settings = workers.ConversionSettings(
        fps=_FPS.value,
        short_side=_SHORT_SIDE.value,
        jpeg_quality=_JPEG_QUALITY.value,
        min_secs=_MIN_SECS.value,
        max_secs=_MAX_SECS.value,
        store_waveform=_STORE_WAVEFORM.value,
        log_mel=LogMelSettings(*(flag.value for flag in _LOG_MEL_FLAGS)),
        modalities=tuple(_MODALITIES.value),
    )
    shards.convert_manifest(
        _MANIFEST.value,
        _OUT.value,
        settings=settings,
        num_workers=_NUM_WORKERS.value or os.cpu_count() or 1,
        rows_per_shard=_ROWS_PER_SHARD.value,
        timeout_secs=_TIMEOUT_SECS.value,
    )


def run() -> None:
    """Entry point of the console script."""
    program.run(main)


if __name__ == "__main__":
    run()
