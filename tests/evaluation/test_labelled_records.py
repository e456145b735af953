"""Splits of labelled records: what takes part, overlaps, classes, bad input."""

import shutil

import numpy as np
import pytest

from data_prep import conversion, conversion_settings
from data_prep.worker_processes import PoolSettings
from xdc_tf.data import (
    dataset_info,
    example_tables,
    payloads,
    records,
    shard_writing,
)
from xdc_tf.data.dataset_info import ShardInfo
from xdc_tf.data.example_tables import ExampleRow
from xdc_tf.evaluation import labelled_records
from xdc_tf.evaluation.labelled_records import open_splits
from xdc_tf.runtime import files
from xdc_tf.training import trained_run

pytestmark = pytest.mark.once

BOTH = ("video", "audio")


@pytest.fixture(scope="module")
def run(tiny_run):
    return trained_run.open_run(str(tiny_run))


@pytest.fixture(scope="module")
def videos(tiny_records):
    """Paths of 24 different videos."""
    return sorted((tiny_records / "train_videos" / "videos").iterdir())


@pytest.fixture(scope="module")
def convert(tmp_path_factory):
    """The function from (path, label) pairs to a directory of records."""

    def convert(pairs, *, folder=None, **changes):
        folder = folder or tmp_path_factory.mktemp("labelled")
        lines = [f"{path},{label}\n" for path, label in pairs]
        (folder / "manifest.csv").write_text("path,label\n" + "".join(lines))
        settings = conversion_settings.ConversionSettings(
            fps=8.0, short_side=32, **changes
        )
        conversion.convert_manifest(
            str(folder / "manifest.csv"),
            str(folder / "records"),
            settings=settings,
            pool=PoolSettings(2),
            rows_per_shard=2,
        )
        return str(folder / "records")

    return convert


@pytest.fixture(scope="module")
def five(convert, videos):
    """The first five videos; the third has no label."""
    labels = ["cat", "dog", "", "cat", "dog"]
    return convert(zip(videos[:5], labels, strict=True))


@pytest.fixture(scope="module")
def others(convert, videos):
    """Two other videos, a cat and a dog."""
    return convert([(videos[5], "cat"), (videos[6], "dog")])


def _open(run, train, test, *, modalities=BOTH, **options):
    return open_splits(train, test, run=run, modalities=modalities, **options)


def _manifest(path, lines):
    path.write_text("\n".join(["path,label", *lines]) + "\n")
    return str(path)


@pytest.fixture
def rows(videos):
    """Lines of the manifest that gave `five`, without line breaks."""
    return [f"{path}," for path in videos]


def test_directories_make_a_split_each(run, five, others):
    first, second = _open(run, [five, others], [others, five])
    assert (first.name, second.name) == ("1", "2")
    assert first.train.directory == second.test.directory == five
    assert first.test.class_names == first.train.class_names == ("cat", "dog")
    assert first.warnings == second.warnings == ()


def test_rows_without_a_label_are_left_out(run, five, others):
    (split,) = _open(run, [five], [others])
    assert split.train.examples.example_indices.tolist() == [0, 1, 3, 4]
    assert split.train.labels.tolist() == [0, 1, 0, 1]
    assert split.train.keep.tolist() == [True, True, False, True, True]


def test_only_shards_that_hold_an_example_are_read(run, five, others):
    (split,) = _open(run, [five], [others])
    # Rows 0 and 1, 2 and 3, 4.
    paths = [f"{five}/records-0000{number}-of-00003.tfrecord" for number in range(3)]
    assert split.train.shards == paths
    chosen = split.train.part(np.array([False, False, True, True]))
    assert chosen.shards == paths[1:]
    assert chosen.labels.tolist() == [0, 1]


def test_manifests_choose_the_examples_of_each_split(run, five, rows, tmp_path):
    front = _manifest(tmp_path / "front.csv", [rows[1], rows[0]])
    back = _manifest(tmp_path / "back.csv", [rows[3], rows[4], rows[2]])
    first, second = _open(
        run, [five], [], train_manifests=[front, back], test_manifests=[back, front]
    )
    assert first.train.examples.example_indices.tolist() == [0, 1]
    assert first.test.examples.example_indices.tolist() == [3, 4]
    # The third has no label, and the order is that of the records.
    assert second.train.examples.example_indices.tolist() == [3, 4]
    assert second.test.examples.example_indices.tolist() == [0, 1]


def test_the_same_id_in_both_parts_is_an_error_unless_allowed(
    run, five, rows, tmp_path
):
    train = _manifest(tmp_path / "train.csv", [*rows[:2], rows[3]])
    test = _manifest(tmp_path / "test.csv", rows[3:5])
    manifests = {"train_manifests": [train], "test_manifests": [test]}
    with pytest.raises(ValueError, match="1 of 2 test videos are also in training"):
        _open(run, [five], [], **manifests)
    (split,) = _open(run, [five], [], allow_overlap=True, **manifests)
    assert split.warnings == ("1 test videos are also in training",)


def test_the_same_video_under_another_name_is_an_error_unless_allowed(
    run, five, convert, videos, tmp_path
):
    shutil.copyfile(videos[0], tmp_path / "other name.mp4")
    test = convert([(tmp_path / "other name.mp4", "cat"), (videos[6], "dog")])
    with pytest.raises(ValueError, match="by id or content, .*other name.mp4"):
        _open(run, [five], [test])
    (split,) = _open(run, [five], [test], allow_overlap=True)
    assert split.warnings == ("1 test videos are also in training",)


def test_two_videos_of_the_same_name_are_two_videos(run, convert, videos, tmp_path):
    directories = []
    for number, labels in ((0, ["cat", "dog"]), (2, ["dog", "cat"])):
        folder = tmp_path / str(number)
        folder.mkdir()
        names = ["a.mp4", "b.mp4"]
        for name, video in zip(names, videos[number : number + 2], strict=True):
            shutil.copyfile(video, folder / name)
        pairs = zip(names, labels, strict=True)
        directories.append(convert(pairs, folder=folder))
    (split,) = _open(run, directories[:1], directories[1:])
    assert split.warnings == ()


def test_where_the_conversion_differs_the_name_tells_a_video(
    run, five, convert, videos
):
    test = convert([(videos[0], "cat"), (videos[6], "dog")], jpeg_quality=50)
    with pytest.raises(ValueError, match="1 of 2 test videos are also in training"):
        _open(run, [five], [test])


def test_sound_alone_is_told_by_its_log_mel(run, convert, videos, tmp_path):
    shutil.copyfile(videos[0], tmp_path / "other name.mp4")
    train = convert([(videos[0], "cat"), (videos[1], "dog")], modalities=("audio",))
    same = convert(
        [(tmp_path / "other name.mp4", "cat"), (videos[2], "dog")],
        modalities=("audio",),
    )
    other = convert([(videos[3], "cat"), (videos[4], "dog")], modalities=("audio",))
    with pytest.raises(ValueError, match="1 of 2 test videos .*other name.mp4"):
        _open(run, [train], [same], modalities=["audio"])
    (split,) = _open(run, [train], [other], modalities=["audio"])
    assert split.warnings == ()


def _black_records(directory, tiny_info, *, levels):
    """Records of a picture that never changes, each with a constant log-mel."""
    directory.mkdir()
    name = "records-00000-of-00001.tfrecord"
    with shard_writing.ShardWriter(str(directory / name)) as writer:
        for number, level in enumerate(levels):
            writer.write(
                records.encode_example(
                    records.Example(
                        example_index=number,
                        data_path=f"{number}.mp4",
                        video_id=f"{number}.mp4",
                        video_items=[b"black"] * 12,
                        start_us=0,
                        end_us=1_500_000,
                        frame_rate=8.0,
                        height=32,
                        width=32,
                        audio_rows=np.full([75, 40], level, np.float32),
                    )
                )
            )
    example_tables.write_examples(
        str(directory),
        [
            ExampleRow(number, f"{number}.mp4", "ab"[number % 2], name, 0.0, 1.5)
            for number in range(len(levels))
        ],
    )
    info = tiny_info._replace(
        manifest_sha256=str(directory),
        num_rows=len(levels),
        num_examples=len(levels),
        label_names=("a", "b"),
        shards=(ShardInfo(name, len(levels)),),
    )
    dataset_info.write_dataset_info(str(directory), info)
    return str(directory)


def test_pictures_that_never_change_are_told_apart_by_their_sound(
    run, tiny_records, tmp_path
):
    info = dataset_info.read_dataset_info(str(tiny_records / "train"))
    train = _black_records(tmp_path / "train", info, levels=[1.0, 2.0])
    test = _black_records(tmp_path / "test", info, levels=[3.0, 4.0])
    same = _black_records(tmp_path / "same", info, levels=[3.0, 2.0])
    (split,) = _open(run, [train], [test])
    assert split.warnings == ()
    with pytest.raises(ValueError, match="1 of 2 test videos .* '1.mp4'"):
        _open(run, [train], [same])


def test_a_test_class_without_a_training_example_is_an_error(
    run, five, convert, videos
):
    test = convert([(videos[5], "cat"), (videos[6], "emu")])
    with pytest.raises(ValueError, match=r"classes \['emu'\], of which .* no example"):
        _open(run, [five], [test])


def test_a_class_without_a_test_video_is_a_warning(run, five, convert, videos):
    test = convert([(videos[5], "dog")])
    (split,) = _open(run, [five], [test])
    assert split.warnings == ("1 of 2 classes have no test video: ['cat']",)
    assert split.test.class_names == ("cat", "dog")
    assert split.test.labels.tolist() == [1]


def test_labels_follow_the_names_and_not_their_numbers(run, convert, videos, others):
    train = convert([(videos[0], "dog"), (videos[1], "cat"), (videos[2], "ant")])
    (split,) = _open(run, [train], [others])
    assert split.test.info.label_names == ("cat", "dog")
    assert split.train.labels.tolist() == [2, 1, 0]
    assert split.test.labels.tolist() == [1, 2]


def test_recordings_shorter_than_a_clip_are_a_warning(run, five, others):
    # The videos have 1.5 s; 16 frames at 8 per second have 2.
    longer = run._replace(clip=run.clip._replace(num_frames=16))
    (split,) = _open(longer, [five], [others])
    assert split.warnings == (
        "4 training videos are shorter than a clip of 2 s, which repeats their "
        "beginning",
        "2 test videos are shorter than a clip of 2 s, which repeats their beginning",
    )


def test_sound_shorter_than_that_of_a_clip_is_a_warning_where_it_is_heard(
    run, five, others
):
    longer = run._replace(clip=run.clip._replace(audio_secs=1.75))
    (split,) = _open(longer, [five], [others])
    assert split.warnings[1].startswith("2 test videos are shorter than a clip of 1.75")
    (split,) = _open(longer, [five], [others], modalities=["video"])
    assert split.warnings == ()


def test_recordings_are_measured_by_the_clip_that_they_are_cut_into(run, five, others):
    longer = run.clip._replace(num_frames=16)
    (split,) = _open(run, [five], [others], clip=longer)
    assert "2 test videos are shorter than a clip of 2 s" in split.warnings[1]


def test_rows_without_a_record_are_a_warning_that_counts_them(
    run, five, rows, tmp_path
):
    train = _manifest(tmp_path / "train.csv", [*rows[:2], "a.mp4,cat", "b.mp4,dog"])
    test = _manifest(tmp_path / "test.csv", rows[3:5])
    (split,) = _open(run, [five], [], train_manifests=[train], test_manifests=[test])
    (warning,) = split.warnings
    assert warning.startswith(f"2 videos of {train} have no labelled record in {five}")
    told = labelled_records.describe(split.train)
    assert told["chosen_by"] == train
    assert told["chosen_by_sha256"] == files.sha256(train)
    assert told["num_examples"] == 2


def test_records_to_test_on_must_be_given(run, five):
    with pytest.raises(ValueError, match="--test_records is missing"):
        _open(run, [five], [])


def test_a_manifest_that_names_none_is_an_error_with_an_example(
    run, five, rows, tmp_path
):
    train = _manifest(tmp_path / "train.csv", rows[:2])
    test = _manifest(tmp_path / "test.csv", ["a.mp4,", "b.mp4,"])
    with pytest.raises(ValueError, match="test.csv names none of the 4 labelled .*mp4"):
        _open(run, [five], [], train_manifests=[train], test_manifests=[test])


def test_a_manifest_of_rows_without_labels_names_none(run, five, rows, tmp_path):
    train = _manifest(tmp_path / "train.csv", rows[:2])
    test = _manifest(tmp_path / "test.csv", rows[2:3])
    with pytest.raises(ValueError, match="test.csv names none"):
        _open(run, [five], [], train_manifests=[train], test_manifests=[test])


def test_a_single_class_to_learn_from_is_an_error(run, five, rows, tmp_path):
    train = _manifest(tmp_path / "train.csv", [rows[0], rows[3]])
    test = _manifest(tmp_path / "test.csv", rows[1:2])
    with pytest.raises(ValueError, match=r"split 1: .* fewer than two classes \(\['ca"):
        _open(run, [five], [], train_manifests=[train], test_manifests=[test])


def test_records_without_labels_are_an_error(run, five, convert, videos):
    test = convert([(videos[5], ""), (videos[6], "")])
    with pytest.raises(ValueError, match="no labelled video; convert a manifest"):
        _open(run, [five], [test])


@pytest.mark.parametrize(
    "num_dirs, num_manifests, told",
    [
        ((1, 1), (2, 1), "2 training and 1 test manifests make no splits"),
        ((1, 1), (1, 0), "1 training and 0 test manifests make no splits"),
        ((2, 2), (1, 1), "one directory of records each .* got 2 and 2"),
        ((1, 2), (1, 1), "one directory of records each .* got 1 and 2"),
        ((2, 1), (0, 0), "2 directories to train on and 1 to test on"),
        ((0, 0), (0, 0), "no directory of records to learn from"),
    ],
)
def test_numbers_that_do_not_fit_are_an_error(run, num_dirs, num_manifests, told):
    with pytest.raises(ValueError, match=told):
        _open(
            run,
            ["train"] * num_dirs[0],
            ["test"] * num_dirs[1],
            train_manifests=["a.csv"] * num_manifests[0],
            test_manifests=["b.csv"] * num_manifests[1],
        )


def test_another_log_mel_setting_is_an_error_where_sound_is_used(run, five, others):
    log_mel = run.config.log_mel._replace(num_filters=64)
    other = run._replace(audio=payloads.log_mel_of(log_mel))
    with pytest.raises(ValueError, match="num_filters .40 in the records, 64 in"):
        _open(other, [five], [others])
    assert len(_open(other, [five], [others], modalities=["video"])) == 1


def test_records_that_lack_a_modality_are_an_error(run, convert, videos, five):
    test = convert([(videos[5], "cat")], modalities=("audio",))
    with pytest.raises(ValueError, match="holds audio but no video"):
        _open(run, [five], [test])


def test_missing_records_are_told(run, five, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no finished conversion"):
        _open(run, [five], [str(tmp_path)])
