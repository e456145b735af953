"""The embedded benchmark: its files, and what they share and do not share."""

import csv
import os
import subprocess
import sys

import av
import numpy as np
import pytest
from scipy import stats

from data_prep import synthetic
from data_prep.manifest import read_manifest
from data_prep.scenes import digits, shapes
from data_prep.scenes.kinds import KINDS

pytestmark = pytest.mark.once

SECS, SIZE = 2.0, 32


def _make(folder, num_videos, *, seed, **options):
    arguments = {"duration_secs": SECS, "size": SIZE, **options}
    return synthetic.make_benchmark(
        str(folder), num_videos=num_videos, seed=seed, **arguments
    )


def _bytes(folder):
    return [path.read_bytes() for path in sorted((folder / "videos").iterdir())]


def _rows(manifest):
    with open(manifest, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory with 20 videos of seed 0."""
    folder = tmp_path_factory.mktemp("made")
    _make(folder, 20, seed=0)
    return folder


def test_a_file_follows_from_seed_and_number_alone(made, tmp_path):
    _make(tmp_path, 3, seed=0, num_workers=2)
    assert _bytes(tmp_path) == _bytes(made)[:3]


def test_another_seed_gives_other_videos_under_other_names(made, tmp_path):
    manifest = _make(tmp_path, 2, seed=1)
    assert not set(_bytes(tmp_path)) & set(_bytes(made))
    paths = {row["path"] for row in _rows(made / "manifest.csv")}
    assert not paths & {row["path"] for row in _rows(manifest)}


def test_classes_are_balanced(made):
    labels = [row["label"] for row in _rows(made / "manifest.csv")]
    assert len(shapes.LABELS) >= 10
    assert sorted(labels) == sorted(2 * shapes.LABELS)


def test_the_manifest_names_every_file_and_nothing_else_is_there(made):
    names = [row["path"] for row in _rows(made / "manifest.csv")]
    assert sorted(os.listdir(made)) == ["manifest.csv", "videos"]
    assert sorted(names) == [f"videos/{n}" for n in sorted(os.listdir(made / "videos"))]


def test_a_file_has_h264_video_and_aac_audio_of_the_asked_duration(made):
    with av.open(str(sorted((made / "videos").iterdir())[0])) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert (video.width, video.height) == (SIZE, SIZE)
        num_frames = num_samples = 0
        for frame in container.decode(video, audio):
            if isinstance(frame, av.VideoFrame):
                num_frames += 1
            else:
                num_samples += frame.samples
        assert num_frames == SECS * shapes.FPS
        # AAC comes in blocks of 1024 samples, with one or two of padding.
        excess = num_samples - SECS * audio.sample_rate
        assert 0 <= excess <= 3 * 1024


def test_a_rerun_keeps_the_files_that_are_there(made):
    before = {path: path.stat().st_mtime_ns for path in (made / "videos").iterdir()}
    _make(made, 20, seed=0)
    after = {path: path.stat().st_mtime_ns for path in (made / "videos").iterdir()}
    assert after == before


def test_an_interrupted_file_is_made_again(made, tmp_path):
    (tmp_path / "videos").mkdir()
    name = sorted(os.listdir(made / "videos"))[0]
    partial = f".{name.removesuffix('.mp4')}.partial.mp4"
    (tmp_path / "videos" / partial).write_bytes(b"half")
    _make(tmp_path, 1, seed=0)
    assert _bytes(tmp_path) == _bytes(made)[:1]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": 33}, "size=33"),
        ({"duration_secs": 0.5}, "duration_secs=0.5"),
        ({"num_workers": 0}, "num_workers=0"),
        ({"shared": 1.5}, "shared=1.5"),
        ({"kind": "cartoons"}, "kind='cartoons'.*long_tail"),
        ({"microphone_db": -1.0}, "microphone_db=-1.0"),
    ],
)
def test_a_bad_value_is_an_error_and_writes_nothing(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        _make(tmp_path / "out", 1, seed=0, **options)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def nuisances():
    """Measured on 30 videos of each class: [10, 30, 4] and [10, 30, 3].

    Picture: background red, green and blue in the first frame (the corners' median),
    and how much the picture changes. Sound: peak, and the place of half the energy
    below 2 kHz and over all frequencies.
    """
    pictures, sounds = [], []
    for number in range(300):
        seeds = np.random.SeedSequence([7, number]).spawn(2)
        class_index = number % 10
        frames = shapes.draw_frames(
            class_index, np.random.default_rng(seeds[0]), num_frames=8, size=SIZE
        ).astype(float)
        waveform = shapes.synthesize_waveform(
            class_index, np.random.default_rng(seeds[1]), num_samples=16000
        )
        assert waveform.dtype == np.float32 and np.abs(waveform).max() <= 1
        corners = frames[0][[0, 0, -1, -1], [0, -1, 0, -1]]
        change = np.abs(np.diff(frames, axis=0)).mean()
        pictures.append([*np.median(corners, axis=0), change])
        energy = np.cumsum(np.square(np.abs(np.fft.rfft(waveform))))
        sounds.append(
            [
                np.abs(waveform).max(),
                np.searchsorted(energy[:1000], energy[999] / 2),
                np.searchsorted(energy, energy[-1] / 2),
            ]
        )
    by_class = (30, 10, -1)
    return (
        np.array(pictures).reshape(by_class).swapaxes(0, 1),
        np.array(sounds).reshape(by_class).swapaxes(0, 1),
    )


@pytest.mark.slow
def test_within_a_class_picture_and_sound_are_not_correlated(nuisances):
    pictures, sounds = nuisances
    for n in range(pictures.shape[-1]):
        for m in range(sounds.shape[-1]):
            # Ranks within each class take the class's own influence away.
            x = stats.rankdata(pictures[..., n], axis=1).ravel()
            y = stats.rankdata(sounds[..., m], axis=1).ravel()
            assert stats.pearsonr(x, y).pvalue > 1e-3


def test_background_and_loudness_do_not_depend_on_the_class(nuisances):
    pictures, sounds = nuisances
    for values in (*np.moveaxis(pictures[..., :3], -1, 0), sounds[..., 0]):
        assert stats.kruskal(*values).pvalue > 1e-3


def test_videos_of_one_class_differ_in_every_nuisance(nuisances):
    for values in nuisances:
        assert np.all(values.std(axis=1) > 0)


def _draw(kind, class_index, seed=0):
    frames = KINDS[kind].draw_frames(
        class_index, np.random.default_rng(seed), num_frames=8, size=SIZE
    )
    waveform = KINDS[kind].synthesize_waveform(
        class_index, np.random.default_rng(seed), num_samples=16000
    )
    return frames, waveform


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_has_frames_and_a_waveform_and_draws_decide_all_else(kind):
    num_classes = len(KINDS[kind].labels)
    for class_index in range(0, num_classes, -(-num_classes // 12)):
        frames, waveform = _draw(kind, class_index)
        assert frames.shape == (8, SIZE, SIZE, 3) and frames.dtype == np.uint8
        assert waveform.shape == (16000,) and waveform.dtype == np.float32
        assert 0.1 < np.abs(waveform).max() <= 1
        assert frames.std(axis=(1, 2, 3)).min() > 1  # no frame is empty
        again, others = _draw(kind, class_index), _draw(kind, class_index, seed=1)
        np.testing.assert_array_equal(frames, again[0])
        np.testing.assert_array_equal(waveform, again[1])
        assert np.mean(frames != others[0]) > 0.05
        assert np.abs(waveform - others[1]).max() > 0.05


@pytest.mark.parametrize("kind", ["shapes", "clutter", "digits"])
def test_the_same_draws_give_another_picture_and_sound_for_another_class(kind):
    num_classes = len(KINDS[kind].labels)
    for class_index in range(num_classes):
        ours = _draw(kind, class_index)
        theirs = _draw(kind, (class_index + 1) % num_classes)
        assert np.mean(ours[0] != theirs[0]) > 0.05
        assert np.abs(ours[1] - theirs[1]).max() > 0.2 * np.abs(ours[1]).max()


def test_digits_of_seeds_that_differ_modulo_three_are_of_other_scans():
    parts = [digits.scans(part) for part in range(digits.NUM_PARTS)]
    assert sum(len(scans) for part in parts for scans in part) == 1797
    seen = [{scan.tobytes() for scans in part for scan in scans} for part in parts]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_a_set_of_digits_draws_from_the_part_of_its_seed(tmp_path, monkeypatch):
    parts = []
    row = KINDS["digits"]

    def draw_frames(*args, part, **options):
        parts.append(part)
        return row.draw_frames(*args, part=part, **options)

    monkeypatch.setitem(KINDS, "digits", row._replace(draw_frames=draw_frames))
    for seed in (1, 5):
        path = str(tmp_path / f"{seed}.mp4")
        synthetic.make_video(synthetic.VideoSpec(path, seed, 0, 1.0, SIZE, "digits"))
    assert parts == [1, 2]


def test_frequencies_of_the_long_tail_are_those_of_zipf():
    specs = [
        synthetic.VideoSpec("", 0, number, SECS, SIZE, "long_tail")
        for number in range(4000)
    ]
    counts = np.bincount([spec.class_index for spec in specs], minlength=12)
    expected = 4000 / np.arange(1, 13) / np.sum(1 / np.arange(1, 13))
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_classes_of_the_long_tail_with_one_side_have_nothing_on_the_other():
    labels = KINDS["long_tail"].labels
    unseen = [c for c, label in enumerate(labels) if label.startswith("unseen")]
    silent = [c for c, label in enumerate(labels) if label.startswith("silent")]
    assert len(unseen) == len(silent) == 2
    for classes, side in ((unseen, 0), (silent, 1)):
        first, second = (_draw("long_tail", c)[side] for c in classes)
        np.testing.assert_array_equal(first, second)
        first, second = (_draw("long_tail", c)[1 - side] for c in classes)
        assert np.any(first != second)


def test_the_manifest_has_the_labels_of_the_kind_and_of_its_shared_fraction(tmp_path):
    manifest = _make(tmp_path, 10, seed=0, kind="digits", size=32)
    assert [row["label"] for row in _rows(manifest)] == [str(d) for d in range(10)]
    specs = [
        synthetic.VideoSpec(
            "", 0, n, SECS, SIZE, "digits", shared=KINDS["digits"].shared
        )
        for n in range(1000)
    ]
    same = np.mean([spec.audio_class_index == spec.class_index for spec in specs])
    assert same == pytest.approx(0.955, abs=0.02)


def _spec(number, shared):
    return synthetic.VideoSpec("", 0, number, SECS, SIZE, shared=shared)


def test_a_sound_has_the_pictures_class_unless_that_is_not_shared():
    assert all(
        spec.audio_class_index == spec.class_index
        for spec in (_spec(number, 1.0) for number in range(50))
    )
    same = [
        spec.audio_class_index == spec.class_index
        for spec in (_spec(number, 0.5) for number in range(1000))
    ]
    # Half, and of the other half a tenth by chance; three deviations.
    assert np.mean(same) == pytest.approx(0.55, abs=0.05)


def test_what_is_not_shared_still_has_the_pictures_label(made, tmp_path):
    manifest = _make(tmp_path, 20, seed=0, shared=0.0)
    assert _rows(manifest) == _rows(made / "manifest.csv")
    changed = [
        ours != theirs
        for ours, theirs in zip(_bytes(tmp_path), _bytes(made), strict=True)
    ]
    assert sum(changed) > 10


def test_a_full_disk_is_one_line_and_then_the_same_command_goes_on(made, tmp_path):
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "from data_prep import synthetic; synthetic.run()"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    options = (f"--out={tmp_path}", "--num_videos=2", f"--size={SIZE}")
    done = subprocess.run(
        [sys.executable, "-c", program, *options, f"--duration_secs={SECS}"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    *_, line = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}/videos/seed0_000000.mp4 cannot be made")
    assert "File too large" in line and "Traceback" not in done.stderr
    assert os.listdir(tmp_path / "videos") == []
    _make(tmp_path, 2, seed=0)
    assert _bytes(tmp_path) == _bytes(made)[:2]


def test_several_classes_are_seen_and_heard_together():
    kind = KINDS["several"]
    numbers_of_labels = [label.count("|") + 1 for label in kind.labels]
    assert np.bincount(numbers_of_labels).tolist() == [0, 10, 45, 120]
    frequencies = np.bincount(numbers_of_labels, kind.frequencies)
    np.testing.assert_allclose(frequencies[1:], 1 / 3)
    pair = kind.labels.index("disc_sway|square_pulse")
    frames, waveform = _draw("several", pair)
    # What is drawn of two scenes and two sounds depends on both classes.
    for other in ("disc_sway|ring_pulse", "disc_pulse|square_pulse"):
        other_frames, other_waveform = _draw("several", kind.labels.index(other))
        assert np.mean(frames != other_frames) > 0.02
        assert np.abs(waveform - other_waveform).max() > 0.05


def test_the_manifest_of_several_classes_has_all_labels_of_a_video(tmp_path):
    manifest = read_manifest(_make(tmp_path, 12, seed=0, kind="several", size=32))
    assert manifest.several_labels
    assert set(manifest.label_names) <= set(shapes.LABELS)
    assert {row.label.count("|") for row in manifest.rows} == {0, 1, 2}
