"""A payload is a module and a row: two that are added here alone work everywhere.

The test runs this file as a program, which adds the rows and starts a command, and is
the configuration of its run too. Frames are in items of four, compressed without loss;
audio is its samples, in rows.
"""

import json
import runpy
import struct
import sys
import zlib
from typing import Annotated, NamedTuple

import numpy as np
import pytest
from forked_commands import run_command

from xdc_tf.data import log_mel, payloads
from xdc_tf.data.payloads import AudioPayload, VideoPayload
from xdc_tf.runtime.typed_settings import Whole

_HEADER = struct.Struct(">BHH")  # frames, height, width


class PlanesSettings(NamedTuple):
    """Frames of an item, and the effort of zlib."""

    frames: Annotated[int, Whole(1, 16)] = 4
    level: Annotated[int, Whole(0, 9)] = 6


def frames_of_an_item(settings):
    return settings.frames


def pixels_of_planes(settings):
    return 1.5


def encode_planes(frames, settings):
    height, width = frames[0][0].shape
    pixels = b"".join(plane.tobytes() for frame in frames for plane in frame)
    header = _HEADER.pack(len(frames), height, width)
    return header + zlib.compress(pixels, settings.level)


def check_planes(items, short_side):
    for item in items:
        if len(item) < _HEADER.size:
            raise ValueError(f"{len(item)} bytes are no item")
        _, height, width = _HEADER.unpack_from(item)
        if short_side not in (None, min(height, width)):
            raise ValueError(f"frames have {width} x {height} pixels")


def decode_planes(item):
    num_frames, height, width = _HEADER.unpack_from(item)
    half_height, half_width = (height + 1) // 2, (width + 1) // 2
    num_bytes = num_frames * (height * width + 2 * half_height * half_width)
    pixels = zlib.decompressobj().decompress(item[_HEADER.size :], num_bytes)
    if len(pixels) != num_bytes:
        raise ValueError(f"cut off: {len(pixels)} of {num_bytes} bytes")
    frames = np.frombuffer(pixels, np.uint8).reshape(num_frames, -1)
    y = frames[:, : height * width].reshape(-1, height, width).astype(float)
    u, v = (
        chroma.reshape(-1, half_height, half_width)
        .repeat(2, axis=1)
        .repeat(2, axis=2)[:, :height, :width]
        - 128.0
        for chroma in np.split(frames[:, height * width :], 2, axis=1)
    )
    rgb = np.stack([y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u], -1)
    return np.clip(np.round(rgb), 0, 255).astype(np.uint8)


def faults_of_planes(items, height, width, num_frames):
    decoded = np.concatenate([decode_planes(item) for item in items])
    if decoded.shape != (num_frames, height, width, 3):
        yield f"frames are of shape {decoded.shape}"


def shape_of_planes(item):
    import tensorflow as tf

    sides = tf.io.decode_raw(tf.strings.substr(item, 1, 4), tf.uint16, False)
    return tf.cast(sides, tf.int32)


def decode_clip(items, places, window, clip, origin):
    import tensorflow as tf

    from xdc_tf.data import crops

    def decode(items, places):
        decoded = [decode_planes(item) for item in items]
        return np.stack([decoded[item][number] for item, number in places])

    frames = tf.numpy_function(decode, [items, places], tf.uint8)
    cropped = crops.crop_pixels(
        tf.ensure_shape(frames, [clip.num_frames, None, None, 3]),
        top=window.top,
        left=window.left,
        fraction=window.fraction,
        crop_size=clip.crop_size,
    )
    if window.mirrored is not None:
        cropped = tf.where(window.mirrored, tf.reverse(cropped, [2]), cropped)
    return cropped


class SamplesSettings(NamedTuple):
    """Samples of a row."""

    length: Annotated[int, Whole(1, 16000)] = 160


def length_of_a_row(settings):
    return settings.length


def cut_samples(waveform, settings):
    import tensorflow as tf

    num_rows = waveform.shape[-1]
    if tf.is_tensor(waveform):
        num_rows = tf.shape(waveform)[-1]
    num_rows = num_rows // settings.length
    used = waveform[..., : num_rows * settings.length]
    if tf.is_tensor(waveform):
        shape = [*waveform.shape[:-1], num_rows, settings.length]
        return tf.reshape(used, [-1 if side is None else side for side in shape])
    return used.reshape(*waveform.shape[:-1], num_rows, settings.length)


def range_of_samples(settings):
    return -16.0, 16.0


def change_samples(rows, seeds, augmentation, clip):
    return (rows - clip.log_mel_mean) / clip.log_mel_std


ROWS = {
    "planes": VideoPayload(
        settings=PlanesSettings,
        key="image/planes",
        frames_per_item=frames_of_an_item,
        encode=encode_planes,
        check=check_planes,
        faults=faults_of_planes,
        decode_item=decode_planes,
        frame_shape=shape_of_planes,
        bytes_per_pixel=pixels_of_planes,
        decode_clip=decode_clip,
    ),
    "samples": AudioPayload(
        settings=SamplesSettings,
        key="audio/samples",
        row_length=length_of_a_row,
        hop_samples=length_of_a_row,
        encode=cut_samples,
        value_range=range_of_samples,
        augment=change_samples,
    ),
}


def get_config():
    """A short run of XDC."""
    from configs import synthetic

    config = synthetic.get_config()
    config.video_encoder.depth = config.audio_encoder.depth = 4
    config.video_encoder.width = config.audio_encoder.width = 0.5
    config.num_rounds = 1
    config.clip.num_frames, config.clip.crop_size = 6, 16
    config.clip.audio_secs = 0.5
    config.kmeans.num_clusters, config.kmeans.num_restarts = 4, 1
    config.features.batch_size, config.features.batch_norm_batches = 8, 1
    config.training.batch_size, config.training.epochs_per_round = 4, 1
    config.training.max_steps_per_epoch = 2
    return config


def run_toy(command, *flags):
    done = run_command(__file__, command, *flags)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    """The rows, in this process."""
    for name, row in ROWS.items():
        monkeypatch.setitem(payloads.PAYLOADS, name, row)


@pytest.fixture(scope="module")
def records(tiny_records, tmp_path_factory):
    """Directory of records of tiny_records' training videos, made by the command."""
    out = tmp_path_factory.mktemp("toy") / "records"
    run_toy(
        "data_prep.convert",
        f"--manifest={tiny_records / 'train_videos' / 'manifest.csv'}",
        f"--out={out}",
        "--payload=planes:frames=5",
        "--payload=samples",
        "--fps=8",
        "--short_side=32",
        "--rows_per_shard=8",
        "--num_workers=2",
    )
    return out


@pytest.fixture(scope="module")
def run(records, tmp_path_factory):
    """Work directory of a run, made by the command."""
    workdir = tmp_path_factory.mktemp("toy_run") / "run"
    run_toy(
        "xdc_tf.cli.pretrain",
        f"--config={__file__}",
        f"--workdir={workdir}",
        f"--records={records}",
    )
    return workdir


def read_example(directory, example_index=3):
    from data_prep.inspection import record_tables
    from xdc_tf.data import example_tables

    info = record_tables.read_info(str(directory))
    examples = example_tables.read_examples(str(directory))
    return record_tables.read_example(str(directory), info, examples, example_index)


def test_records_hold_the_frames_and_the_audio_of_the_files(records, tiny_records):
    ours, jpeg = read_example(records), read_example(tiny_records / "train")
    assert [item[0] for item in ours.video_items] == [5, 5, 2]  # of 12 frames
    frames = np.concatenate([decode_planes(item) for item in ours.video_items])
    decode_jpeg = payloads.PAYLOADS["jpeg"].decode_item
    images = np.concatenate([decode_jpeg(item) for item in jpeg.video_items])
    assert np.abs(frames - images.astype(float)).mean() < 3
    spectrogram = log_mel.log_mel(ours.audio_rows.ravel(), log_mel.LogMelSettings())
    np.testing.assert_array_equal(spectrogram, jpeg.audio_rows)


def test_they_are_verified_and_drawn(records, tmp_path):
    done = run_toy("data_prep.inspect", f"--records={records}", "--verify")
    assert "24 examples" in done.stdout
    drawn = [f"--records={records}", "--index=3", f"--out={tmp_path}"]
    done = run_toy("data_prep.inspect", *drawn)
    assert "samples 150 x 160" in done.stdout
    assert (tmp_path / "example_3.png").stat().st_size > 10_000
    damaged = read_example(records).video_items
    with pytest.raises(ValueError, match="cut off"):
        decode_planes(damaged[0][:100])


def test_the_same_conversion_has_nothing_to_do_and_another_payload_is_refused(
    records, tiny_records
):
    arguments = [
        "data_prep.convert",
        f"--manifest={tiny_records / 'train_videos' / 'manifest.csv'}",
        f"--out={records}",
        *("--fps=8", "--short_side=32", "--rows_per_shard=8"),
    ]
    run_toy(*arguments, "--payload=planes:frames=5", "--payload=samples")
    done = run_command(__file__, *arguments, "--payload=planes:frames=4")
    assert done.returncode == 1 and "payloads" in done.stderr


def test_a_clip_is_of_the_frames_and_samples_at_its_time(records):
    from xdc_tf.data import pipeline, record_directory
    from xdc_tf.data.clip_reading import ClipSource
    from xdc_tf.training import configuration

    opened = record_directory.open_directory(str(records))
    config = configuration.from_mapping(get_config().to_dict())
    clip = configuration.clip(config, opened.info)._replace(
        crop_size=32, crop_share=1.0
    )
    source = ClipSource(list(opened.promised.rows), clip, promised=opened.promised)
    batch = next(iter(pipeline.evaluation_batches(source, batch_size=4)))
    example = read_example(records)
    frames = np.concatenate([decode_planes(item) for item in example.video_items])
    # 1.5 s at 8 frames per second; the central 0.75 s start at 0.375 s.
    np.testing.assert_array_equal(batch["video"][3], frames[3:9])
    samples = batch["audio"][3, ..., 0] * clip.log_mel_std + clip.log_mel_mean
    np.testing.assert_allclose(samples, example.audio_rows[50:100], atol=1e-6)


@pytest.mark.slow
def test_encoders_are_evaluated_on_them(run, records, tmp_path):
    report = tmp_path / "report.json"
    run_toy(
        "xdc_tf.cli.evaluate",
        "--protocol=retrieval",
        f"--workdir={run}",
        f"--records={records}",
        f"--test_records={records}",
        "--allow_overlap",
        f"--json={report}",
    )
    results = json.loads(report.read_text())["results"]
    assert {result["stream"] for result in results} >= {"video", "audio"}


def test_records_of_the_log_mel_are_not_for_its_encoder(run, tiny_records):
    done = run_command(
        __file__,
        "xdc_tf.cli.evaluate",
        "--protocol=retrieval",
        f"--workdir={run}",
        f"--records={tiny_records / 'train'}",
        f"--test_records={tiny_records / 'test'}",
    )
    assert done.returncode == 1
    assert "holds log-mel, and the audio encoder takes samples" in done.stderr


@pytest.mark.slow
def test_new_videos_are_converted_to_them(run, odd_videos, tmp_path):
    run_toy(
        "xdc_tf.cli.assign",
        f"--workdir={run}",
        f"--videos={odd_videos}",
        f"--out={tmp_path / 'clusters.csv'}",
    )
    lines = (tmp_path / "clusters.csv").read_text().splitlines()
    assert len(lines) == 5 and any("two.mov" in line for line in lines)


@pytest.mark.slow
def test_an_export_serves_waveforms_by_it(run, records, tmp_path):
    import keras
    import tensorflow as tf

    exported = tmp_path / "exported"
    run_toy("xdc_tf.cli.export", f"--workdir={run}", f"--out={exported}")
    card = json.loads((exported / "export.json").read_text())
    contract = card["encoders"]["audio_encoder"]["input"]
    assert contract["payload"] == {"samples": {"length": 160}}
    saved = tf.saved_model.load(str(exported / "audio_encoder"))
    waveform = np.random.default_rng(0).uniform(-1, 1, (2, 8000)).astype(np.float32)
    served = saved.signatures["serving_default"](waveform=waveform)
    rows = (waveform.reshape(2, 50, 160) - contract["mean"]) / contract["std"]
    encoder = keras.models.load_model(exported / "audio_encoder.keras")
    (features,) = served.values()
    np.testing.assert_allclose(features, encoder(rows[..., None]), atol=1e-4)
    run_toy(
        "xdc_tf.cli.evaluate",
        "--protocol=retrieval",
        f"--workdir={exported}",
        f"--records={records}",
        f"--test_records={records}",
        "--allow_overlap",
    )


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--payload=mp3"], "--payload='mp3' must be one of those beside the defaults"),
        (["--payload=jpeg:quality=9"], "whose settings have flags of their own"),
        (["--payload=planes:frames=0"], "--payload.planes.frames=0 must be a whole"),
        (["--payload=planes:depth=3"], "--payload.planes has no setting 'depth'"),
        (["--payload=planes", "--modalities=audio"], "payload=planes holds video"),
    ],
)
def test_what_no_payload_is_is_an_error(flags, what, tmp_path):
    (tmp_path / "a.csv").write_text("path\na.mp4\n")
    done = run_command(
        __file__,
        "data_prep.convert",
        f"--manifest={tmp_path / 'a.csv'}",
        f"--out={tmp_path / 'out'}",
        *flags,
    )
    assert done.returncode == 1 and what in done.stderr


if __name__ == "__main__":
    # By this module's name, by which worker processes import the functions.
    import test_payload_table

    payloads.PAYLOADS.update(test_payload_table.ROWS)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
