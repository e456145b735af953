"""Pictures and sounds of examples: what lies where on the time axis, what sounds."""

import numpy as np
import pytest
import tensorflow as tf
from media_files import SAMPLE_RATE_HZ, tone
from PIL import Image
from scipy.io import wavfile

from data_prep.inspection import example_files, record_figures
from data_prep.inspection.record_tables import (
    Example,
    read_example,
    read_info,
    spread_indices,
)
from xdc_tf.data import records, shard_writing
from xdc_tf.data.dataset_info import DatasetInfo, ShardInfo, write_dataset_info
from xdc_tf.data.example_tables import ExampleRow, read_examples, write_examples
from xdc_tf.data.log_mel import LogMelSettings, log_mel

pytestmark = pytest.mark.once

LOG_MEL = LogMelSettings()
FPS = 10.0
RED, BLUE = (200, 20, 20), (20, 20, 200)
INFO = DatasetInfo(
    manifest_sha256="",
    num_rows=3,
    num_examples=3,
    num_quarantined=0,
    fps=FPS,
    short_side=32,
    jpeg_quality=90,
    min_secs=0.5,
    max_secs=60.0,
    has_waveform=False,
    rows_per_shard=2,
    log_mel=LOG_MEL,
    log_mel_mean=0.0,
    log_mel_std=1.0,
    label_names=("tone",),
    shards=(ShardInfo("first", 2), ShardInfo("second", 1)),
)


def jpeg(colour):
    image = np.broadcast_to(np.array(colour, np.uint8), (32, 48, 3))
    return tf.io.encode_jpeg(image, quality=95).numpy()


def make_example(**changed):
    """From 3 to 5 s: red for 0.5 s, then blue; silence for 0.5 s, then a tone."""
    values = {
        "example_index": 7,
        "video_id": "a.mp4#t=3,5",
        "label": "tone",
        "start_secs": 3.0,
        "end_secs": 5.0,
        "frame_rate": FPS,
        "video_items": [jpeg(RED)] * 5 + [jpeg(BLUE)] * 15,
        "audio_rows": log_mel(tone(2.0, hz=2000, start_secs=0.5), LOG_MEL),
        "waveform": None,
    }
    return Example(**values | changed)


def pixels_of(tmp_path, example):
    """[H, W, 3] of the picture, and its figure with both axes."""
    path = tmp_path / "example.png"
    record_figures.save_figure(str(path), example, INFO)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")), record_figures.draw(example, INFO)


def colour_at(pixels, axes, secs, height):
    """The pixel of the axes at a time; height is in the axes' own unit."""
    x, y = axes.transData.transform((secs, height))
    return pixels[len(pixels) - 1 - int(y), int(x)].astype(int)


def test_frames_are_where_the_time_axis_puts_them(tmp_path):
    pixels, figure = pixels_of(tmp_path, make_example())
    strip = figure.axes[0]
    # 7 frames of 2 s are on show: numbers 0, 2, 5, 8, ..., at 3.0, 3.2, 3.5, 3.8 s.
    ticks = strip.get_xticks()
    assert ticks[:4] == pytest.approx([3.0, 3.2, 3.5, 3.8])
    assert len(ticks) == 7
    for secs in ticks:
        expected = RED if secs < 3.45 else BLUE
        found = colour_at(pixels, strip, secs + 0.02, 0.5)
        assert np.abs(found - expected).max() < 20


def test_the_log_mel_is_where_the_time_axis_puts_it(tmp_path):
    pixels, figure = pixels_of(tmp_path, make_example())
    axes = figure.axes[1]
    row = int(np.argmax(make_example().audio_rows[50]))
    silent = colour_at(pixels, axes, 3.47, row).sum()
    loud = colour_at(pixels, axes, 3.53, row).sum()
    assert silent < 50 < 500 < loud
    (two_khz,) = (
        place
        for place, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        if label.get_text() == "2k"
    )
    assert two_khz == pytest.approx(row, abs=0.6)


def test_frames_and_log_mel_have_the_same_edges(tmp_path):
    _, figure = pixels_of(tmp_path, make_example())
    strip, spectrum, _ = figure.axes
    assert strip.get_xlim() == spectrum.get_xlim() == (3.0, 5.0)
    for edge in ("x0", "x1"):
        assert getattr(strip.bbox, edge) == getattr(spectrum.bbox, edge)
    assert strip.bbox.y0 > spectrum.bbox.y1


def test_frames_keep_their_shape(tmp_path):
    pixels, figure = pixels_of(tmp_path, make_example())
    strip = figure.axes[0]
    left, right, bottom, top = strip.images[0].get_extent()
    corners = strip.transData.transform([(left, bottom), (right, top)])
    width, height = corners[1] - corners[0]
    assert width / height == pytest.approx(48 / 32, rel=0.03)


@pytest.mark.parametrize("shape", [(480, 16), (16, 480), (1, 1)])
def test_frames_of_odd_shapes_do_not_overlap(shape):
    image = tf.io.encode_jpeg(np.zeros((*shape, 3), np.uint8)).numpy()
    figure = record_figures.draw(make_example(video_items=[image] * 20), INFO)
    extents = [image.get_extent() for image in figure.axes[0].images]
    for (_, right, *_), (left, *_) in zip(extents[:-1], extents[1:], strict=True):
        assert right <= left
    assert extents[-1][1] <= 5.0


def test_audio_alone_is_a_log_mel_alone(tmp_path):
    example = make_example(video_items=[], frame_rate=0.0)
    pixels, figure = pixels_of(tmp_path, example)
    assert len(figure.axes) == 2  # with the colours' scale
    assert colour_at(pixels, figure.axes[0], 3.1, 20).sum() < 50


def test_video_alone_is_a_strip_alone(tmp_path):
    pixels, figure = pixels_of(tmp_path, make_example(audio_rows=None))
    (strip,) = figure.axes
    assert np.abs(colour_at(pixels, strip, 3.02, 0.5) - RED).max() < 20


def test_names_of_strangers_are_no_formulas(tmp_path):
    name = r"a $\frac{$ \x.mp4" + "\x1b[2J\n"
    example = make_example(video_id=name, label="$x^2$")
    _, figure = pixels_of(tmp_path, example)
    title = figure.texts[0].get_text()
    assert title == r"a $\frac{$ \x.mp4\x1b[2J\n — $x^2$"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"video_items": [], "audio_rows": None}, "neither frames nor audio"),
        ({"video_items": [b"no image"]}, "frame 0 of example_index 7 is no JPEG"),
        ({"end_secs": 3.0}, "example_index 7 is from 3.0 to 3.0 s"),
    ],
)
def test_what_cannot_be_drawn_is_an_error(changed, message):
    with pytest.raises(ValueError, match=message):
        record_figures.draw(make_example(**changed), INFO)


@pytest.mark.parametrize("hz", [300, 1000, 3000])
def test_a_tone_made_from_its_log_mel_keeps_its_frequency(hz):
    waveform = example_files.approximate_waveform(
        log_mel(tone(1.0, hz=hz), LOG_MEL), LOG_MEL
    )
    assert waveform.shape == (SAMPLE_RATE_HZ,)
    peak_hz = np.argmax(np.abs(np.fft.rfft(waveform)))  # of 1 s: a bin is 1 Hz
    # Filters are 68 mel apart: this wide at the tone's frequency.
    assert abs(peak_hz - hz) < 68 * (700 + hz) / 1127
    assert np.std(waveform) == pytest.approx(np.std(tone(1.0, hz=hz)), rel=0.2)


def test_a_sound_made_from_a_log_mel_has_about_this_log_mel():
    given = make_example().audio_rows
    waveform = example_files.approximate_waveform(given, LOG_MEL)
    found = log_mel(waveform, LOG_MEL)
    assert np.corrcoef(given.ravel(), found.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("num_rows", [0, 1, 2])
def test_short_log_mels_give_short_sounds(num_rows):
    values = np.zeros((num_rows, 40), np.float32)
    waveform = example_files.approximate_waveform(values, LOG_MEL)
    assert waveform.shape == (num_rows * 320,)


def test_long_log_mels_are_done_in_parts(monkeypatch):
    values = make_example().audio_rows
    whole = example_files.approximate_waveform(values, LOG_MEL)
    monkeypatch.setattr(example_files, "_SECS_AT_ONCE", 1.5)
    in_parts = example_files.approximate_waveform(values, LOG_MEL)
    assert in_parts.shape == whole.shape
    assert np.std(in_parts) == pytest.approx(np.std(whole), rel=0.1)


def test_a_log_mel_that_is_not_finite_has_no_sound():
    values = np.full((5, 40), np.nan, np.float32)
    with pytest.raises(ValueError, match="that no sound has"):
        example_files.approximate_waveform(values, LOG_MEL)


def test_a_wav_file_has_the_samples_and_is_clipped(tmp_path):
    path = str(tmp_path / "sound.wav")
    example_files.write_wav(path, np.array([0, 0.5, -1, 3], np.float32), 8000)
    rate_hz, samples = wavfile.read(path)
    assert rate_hz == 8000
    assert samples.tolist() == [0, 16384, -32767, 32767]


def write_records(folder, *, with_waveform=False, with_log_mel=True, with_frames=True):
    """Examples 0, 1 and 2, tones of 1000, 1100 and 1200 Hz, in two shards."""
    folder.mkdir()
    rows = []
    for shard, numbers in (("first", (0, 1)), ("second", (2,))):
        with shard_writing.ShardWriter(str(folder / shard)) as writer:
            for number in numbers:
                waveform = tone(1.0, hz=1000 + 100 * number)
                video = {"frame_rate": FPS, "height": 32, "width": 48}
                video["video_items"] = [jpeg(RED)] * 10
                writer.write(
                    records.encode_example(
                        records.Example(
                            example_index=number,
                            data_path=f"{number}.mp4",
                            video_id=f"{number}.mp4",
                            start_us=0,
                            end_us=1_000_000,
                            audio_rows=log_mel(waveform, LOG_MEL)
                            if with_log_mel
                            else None,
                            waveform=waveform if with_waveform else None,
                            **video if with_frames else {},
                        )
                    )
                )
                rows.append(ExampleRow(number, f"{number}.mp4", "", shard, 0.0, 1.0))
    modalities = ("video",) * with_frames + ("audio",) * with_log_mel
    info = INFO._replace(has_waveform=with_waveform, modalities=modalities)
    write_examples(str(folder), rows)
    write_dataset_info(str(folder), info)
    return str(folder)


def save(folder, out, indices):
    example_files.save_examples(
        folder, read_info(folder), read_examples(folder), indices=indices, out_dir=out
    )


def test_a_stored_waveform_is_the_wav_file(tmp_path, capsys):
    folder = write_records(tmp_path / "records", with_waveform=True)
    save(folder, str(tmp_path / "out"), [1, 2])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "example_1.png",
        "example_1.wav",
        "example_2.png",
        "example_2.wav",
    ]
    rate_hz, samples = wavfile.read(tmp_path / "out" / "example_1.wav")
    assert rate_hz == SAMPLE_RATE_HZ
    np.testing.assert_allclose(samples / 32767, tone(1.0, hz=1100), atol=1e-4)
    assert "approximation" not in capsys.readouterr().out


def test_without_a_waveform_the_wav_file_is_said_to_be_an_approximation(
    tmp_path, capsys
):
    folder = write_records(tmp_path / "records")
    save(folder, str(tmp_path / "out"), [0])
    path = tmp_path / "out" / "example_0.from_log_mel.wav"
    rate_hz, samples = wavfile.read(path)
    assert (rate_hz, len(samples)) == (SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)
    assert f"{path} (an approximation from the log-mel" in capsys.readouterr().out
    assert not (tmp_path / "out" / "example_0.wav").exists()


def test_audio_alone_has_picture_and_sound(tmp_path):
    folder = write_records(tmp_path / "records", with_frames=False)
    save(folder, str(tmp_path / "out"), [2])
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["example_2.from_log_mel.wav", "example_2.png"]


def test_video_alone_has_a_picture_and_no_sound(tmp_path):
    folder = write_records(tmp_path / "records", with_log_mel=False)
    save(folder, str(tmp_path / "out"), [0])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["example_0.png"]


def test_only_the_shard_of_an_example_is_read(tmp_path):
    folder = write_records(tmp_path / "records")
    (tmp_path / "records" / "second").unlink()
    info, examples = read_info(folder), read_examples(folder)
    example = read_example(folder, info, examples, 1)
    assert (example.example_index, example.video_id) == (1, "1.mp4")
    assert len(example.video_items) == 10
    with pytest.raises(ValueError, match="second"):
        read_example(folder, info, examples, 2)


def test_a_record_in_anothers_place_is_an_error(tmp_path):
    folder = write_records(tmp_path / "records")
    path = str(tmp_path / "records" / "first")
    serialized = [*tf.data.TFRecordDataset(path).as_numpy_iterator()]
    with tf.io.TFRecordWriter(path) as writer:
        for one in reversed(serialized):
            writer.write(one)
    with pytest.raises(ValueError, match=r"record 0 \(example_index 0\) is example_in"):
        read_example(folder, read_info(folder), read_examples(folder), 0)


def test_examples_are_spread_from_the_first_to_the_last(tmp_path):
    examples = read_examples(write_records(tmp_path / "records"))
    many = examples._replace(example_indices=np.arange(0, 200, 2))
    assert spread_indices(many, 4) == [0, 66, 132, 198]
    assert spread_indices(examples, 4) == [0, 1, 2]


def test_records_with_a_scheme_are_read(tmp_path):
    local = write_records(tmp_path / "records")
    remote = "ram://inspected"  # TensorFlow's file system in memory
    tf.io.gfile.makedirs(remote)
    # In memory, a file whose name is the beginning of another's has no size.
    names = [name for name in tf.io.gfile.listdir(local) if "index" not in name]
    for name in names:
        tf.io.gfile.copy(f"{local}/{name}", f"{remote}/{name}", overwrite=True)
    example = read_example(remote, read_info(remote), read_examples(remote), 2)
    assert example.video_id == "2.mp4"
