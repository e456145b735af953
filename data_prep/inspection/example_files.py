"""Examples of a directory of records as files to look at and to listen to."""

import os
from collections.abc import Sequence

from data_prep.inspection.record_audio import approximate_waveform, write_wav
from data_prep.inspection.record_figures import save_figure
from data_prep.inspection.record_reading import check_index, read_example
from xdc_tf.data import payloads
from xdc_tf.data.dataset_info import DatasetInfo
from xdc_tf.data.example_tables import Examples


def save_examples(
    records_dir: str,
    info: DatasetInfo,
    examples: Examples,
    *,
    indices: Sequence[int],
    out_dir: str,
) -> None:
    """Writes example_N.png, and example_N.wav if there is audio; prints their names.

    Without a stored waveform the audio is made from the log-mel, is named
    example_N.from_log_mel.wav, and the line says that it is an approximation.

    Args:
        records_dir: local or remote (s3://...).
        info: its record_tables.read_info.
        examples: its example_tables.read_examples.
        indices: example_index of each, checked before anything is written.
        out_dir: a local directory, made if there is none.

    Raises:
        ValueError: there is no such example, or its record cannot be read.
        OSError: a file cannot be written.
    """
    for index in indices:
        check_index(records_dir, info, examples, index)
    os.makedirs(out_dir, exist_ok=True)
    sample_rate_hz = info.log_mel.sample_rate_hz
    has_log_mel = payloads.stored(info, payloads.AUDIO).name == "log_mel"
    for index in indices:
        example = read_example(records_dir, info, examples, index)
        stem = os.path.join(out_dir, f"example_{index}")
        save_figure(f"{stem}.png", example, info)
        print(f"{stem}.png", flush=True)
        if example.waveform is not None:
            write_wav(f"{stem}.wav", example.waveform, sample_rate_hz)
            print(f"{stem}.wav", flush=True)
        elif example.audio_rows is not None and has_log_mel:
            waveform = approximate_waveform(example.audio_rows, info.log_mel)
            write_wav(f"{stem}.from_log_mel.wav", waveform, sample_rate_hz)
            print(
                f"{stem}.from_log_mel.wav (an approximation from the log-mel; records "
                "made with --store_waveform have the sound itself)",
                flush=True,
            )
