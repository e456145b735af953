"""Pictures and sounds of rounds, as TensorBoard reads them."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.prepared_runs import ONE_DEVICE, make_run
from xdc_tf.data import example_previews
from xdc_tf.data.example_previews import Preview
from xdc_tf.labels import agreement
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.runtime import pictures
from xdc_tf.training.round_pictures import RoundPictures, draw_cross_table, draw_tile
from xdc_tf.training.run import prepare


def clusterings(num_rows):
    labels = (np.arange(num_rows) % 4).astype(np.int32)
    sizes = np.bincount(labels, minlength=4)
    centroids = np.zeros([4, 3], np.float32)
    return {
        name: Clustering(values, centroids, sizes, 1.0)
        for name, values in {
            "audio": labels,
            "video": labels[::-1].copy(),
            "video-1": labels,
        }.items()
    }


def summaries(run):
    """Tensors by name and step."""
    run.monitor.close()
    found = {}
    for path in tf.io.gfile.glob(f"{run.workdir}/tensorboard/events.*"):
        for event in tf.compat.v1.train.summary_iterator(path):
            for value in event.summary.value:
                found[value.tag, event.step] = tf.make_ndarray(value.tensor)
    return found


def test_a_round_has_a_sheet_per_source_and_a_cross_table(
    tiny_config, tiny_records, tmp_path
):
    run = make_run(tiny_config, tiny_records, tmp_path)
    rounds = RoundPictures(run)
    rounds.write(clusterings(24), 0)
    rounds.write(clusterings(24), 1)
    found = summaries(run)
    names = {
        "clusters/audio/contact_sheet",
        "clusters/video/contact_sheet",
        "clusters/cross_table_of_audio_and_video",
    }
    assert found.keys() == {(name, step) for name in names for step in (0, 1)}
    sheet = found["clusters/audio/contact_sheet", 0][2]
    assert sheet == found["clusters/audio/contact_sheet", 1][2]
    picture = np.asarray(Image.open(io.BytesIO(sheet)))
    # Four lines of six members of 64 pixels, a frame above a spectrogram.
    assert picture.shape[0] > 4 * (64 + 24) and picture.shape[1] > 6 * 64


def test_no_pictures_are_drawn_where_no_clusters_are_to_be_shown(
    tiny_config, tiny_records, tmp_path
):
    tiny_config["tensorboard"]["clusters_shown"] = 0
    run = make_run(tiny_config, tiny_records, tmp_path)
    RoundPictures(run).write(clusterings(24), 0)
    assert not summaries(run)


def test_examples_that_are_shown_again_are_not_read_again(
    tiny_config, tiny_records, tmp_path, monkeypatch
):
    run = make_run(tiny_config, tiny_records, tmp_path)
    read, asked = example_previews.read_previews, []

    def read_previews(source, examples):
        asked.append(list(examples))
        return read(source, examples)

    monkeypatch.setattr(example_previews, "read_previews", read_previews)
    rounds = RoundPictures(run)
    rounds.write(clusterings(24), 0)
    rounds.write(clusterings(24), 1)
    assert asked == [list(range(24)), []]


def test_records_that_cannot_be_read_are_a_warning_and_no_error(
    tiny_config, tiny_records, tmp_path, capsys, monkeypatch
):
    run = make_run(tiny_config, tiny_records, tmp_path)
    monkeypatch.setattr(
        example_previews,
        "read_previews",
        lambda source, examples: ({}, ["shard\x1b[31m is gone", "another"]),
    )
    RoundPictures(run).write(clusterings(24), 0)
    assert capsys.readouterr().err == (
        "warning: pictures for TensorBoard: shard\\x1b[31m is gone (1 more); training "
        "goes on.\n"
    )
    assert ("clusters/audio/contact_sheet", 0) in summaries(run)


def test_members_sound_where_records_have_the_waveform(
    tiny_config, waveform_records, tmp_path
):
    tiny_config["tensorboard"]["sounds_per_source"] = 2
    run = prepare(
        tiny_config,
        workdir=str(tmp_path),
        records_dir=str(waveform_records / "train"),
        strategy=ONE_DEVICE,
        allow_config_change=False,
    )
    RoundPictures(run).write(clusterings(12), 3)
    sounds = summaries(run)["clusters/audio/sound", 3]
    assert len(sounds) == 2
    waveform, rate = tf.audio.decode_wav(sounds[0, 0])
    assert int(rate) == 16000 and len(waveform) == 24000
    assert float(tf.reduce_max(tf.abs(waveform))) > 0.01


@pytest.mark.parametrize(
    "preview, height",
    [
        (Preview(np.zeros([30, 40, 3], np.uint8), np.zeros([9, 4], np.float32)), 89),
        (Preview(np.zeros([30, 40, 3], np.uint8), None), 64),
        (Preview(None, np.zeros([9, 4], np.float32)), 64),
    ],
)
def test_a_tile_shows_what_there_is(preview, height):
    assert draw_tile(preview).shape == (height, 64, 3)


def test_clusters_that_agree_lie_on_the_diagonal_of_the_cross_table(monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures, "table", lambda counts, **texts: drawn.append(counts))
    first = np.repeat(np.arange(5), [4, 9, 2, 7, 5])
    renamed = np.array([3, 0, 4, 1, 2])
    draw_cross_table(agreement.count_pairs(first, renamed[first]), "audio", "video")
    (counts,) = drawn
    assert sorted(np.diag(counts)) == [2, 4, 5, 7, 9]
    assert counts.sum() == 27
