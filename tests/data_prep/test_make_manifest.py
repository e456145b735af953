import csv
import os
import subprocess
import sys

import pytest

from data_prep.datasets import kinetics as kinetics_lists
from data_prep.datasets.manifest_writer import describe
from data_prep.datasets.manifests import make_manifest
from data_prep.manifest import read_manifest

pytestmark = pytest.mark.once


def put(folder, *names):
    """Makes empty files, and the folders that they lie in."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return [tuple(row) for row in csv.reader(file)]


def manifest_of(tmp_path, dataset, split=None, *, out="out/manifest.csv", **options):
    """The manifest of tmp_path/media by tmp_path/lists, if there, read back."""
    lists = tmp_path / "lists"
    make_manifest(
        dataset,
        str(tmp_path / "media"),
        annotations=str(lists) if lists.exists() else None,
        split=split,
        out=str(tmp_path / out),
        **options,
    )
    return read_manifest(str(tmp_path / out))


def found(tmp_path, *args, **options):
    """(file below tmp_path/media, label) of each row."""
    rows = manifest_of(tmp_path, *args, **options).rows
    media = str(tmp_path / "media")
    return [(os.path.relpath(row.file, media), row.label) for row in rows]


def segments(tmp_path, *args, **options):
    """(file below tmp_path/media, start, end, label) of each row."""
    rows = manifest_of(tmp_path, *args, **options).rows
    media = str(tmp_path / "media")
    return [
        (os.path.relpath(row.file, media), row.start_secs, row.end_secs, row.label)
        for row in rows
    ]


def labels_of(tmp_path):
    return (tmp_path / "out/labels.txt").read_text(encoding="utf-8").splitlines()


def ucf101(tmp_path):
    """Two classes of UCF101, in the official layout, with Windows line ends."""
    put(
        tmp_path / "media",
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
        "HandstandPushups/v_HandStandPushups_g01_c01.avi",
        "HandstandPushups/v_HandStandPushups_g08_c01.avi",
    )
    lists = tmp_path / "lists"
    write(lists / "classInd.txt", "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n")
    write(
        lists / "trainlist01.txt",
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n"
        "HandstandPushups/v_HandStandPushups_g08_c01.avi 2\r\n",
    )
    write(
        lists / "testlist01.txt",
        "HandstandPushups/v_HandStandPushups_g01_c01.avi\r\n"
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\r\n",
    )
    return lists


def hmdb51(tmp_path):
    """Two classes of HMDB51, one with an underscore in its name."""
    put(
        tmp_path / "media",
        "shoot_ball/#20_Rhythm_shoot_ball_u_cm_np1_fr_goo_0.avi",
        "shoot_ball/(HD)_Bad_Boys!_shoot_ball_f_cm_np1_ri_med_1.avi",
        "shoot_ball/A&B;C's_shoot_ball_u_nm_np1_fr_goo_2.avi",
        "smile/April_09_smile_h_nm_np1_fr_goo_0.avi",
    )
    lists = tmp_path / "lists"
    write(
        lists / "shoot_ball_test_split1.txt",
        "#20_Rhythm_shoot_ball_u_cm_np1_fr_goo_0.avi 1 \n"
        "(HD)_Bad_Boys!_shoot_ball_f_cm_np1_ri_med_1.avi 2 \n"
        "A&B;C's_shoot_ball_u_nm_np1_fr_goo_2.avi 0 \n",
    )
    write(
        lists / "shoot_ball_test_split2.txt",
        "A&B;C's_shoot_ball_u_nm_np1_fr_goo_2.avi 1\n",
    )
    write(
        lists / "smile_test_split1.txt", "April_09_smile_h_nm_np1_fr_goo_0.avi 1 \r\n"
    )
    return lists


KINETICS_HEADER = "label,youtube_id,time_start,time_end,split\n"


def kinetics(tmp_path, *, train, val="", test=""):
    lists = tmp_path / "lists"
    write(lists / "train.csv", KINETICS_HEADER + train)
    write(lists / "validate.csv", KINETICS_HEADER + val)
    write(lists / "test.csv", "youtube_id,time_start,time_end,split\n" + test)
    return lists


AUDIOSET_HEAD = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\n"
    "# num_ytids=3, num_segs=3, num_unique_labels=3, num_positive_labels=4\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
)


def audioset(tmp_path, lines):
    lists = tmp_path / "lists"
    write(lists / "eval_segments.csv", AUDIOSET_HEAD + lines)
    write(
        lists / "class_labels_indices.csv",
        "index,mid,display_name\n"
        '0,/m/09x0r,"Speech"\n'
        '1,/t/dd00088,"Gush"\n'
        '2,/m/0ytgt,"Child speech, kid speaking"\n',
    )
    return lists


# What all data sets share.


def test_a_row_leads_from_the_manifest_to_its_file(tmp_path):
    put(tmp_path / "media", 'dog/a "b" c.mp4', "cat/-x.mp4")
    rows = manifest_of(tmp_path, "folder").rows
    assert [row.path for row in rows] == [
        "../media/cat/-x.mp4",
        '../media/dog/a "b" c.mp4',
    ]
    assert all(os.path.exists(row.file) for row in rows)


def test_a_manifest_among_the_media_names_them_without_a_detour(tmp_path):
    put(tmp_path / "media", "dog/a.mp4")
    rows = manifest_of(tmp_path, "folder", out="media/all.csv").rows
    assert [row.path for row in rows] == ["dog/a.mp4"]


def test_the_file_has_the_projects_columns(tmp_path):
    ucf101(tmp_path)
    manifest_of(tmp_path, "ucf101", "test1")
    assert read_csv(tmp_path / "out/manifest.csv")[:2] == [
        ("path", "start_secs", "end_secs", "label"),
        (
            "../media/HandstandPushups/v_HandStandPushups_g01_c01.avi",
            "",
            "",
            "HandstandPushups",
        ),
    ]


def test_labels_are_those_of_the_whole_data_set_sorted(tmp_path):
    hmdb51(tmp_path)
    assert found(tmp_path, "hmdb51", "test1")[0][1] == "shoot_ball"
    assert labels_of(tmp_path) == ["shoot_ball", "smile"]


def test_a_second_split_keeps_the_labels_of_the_first(tmp_path):
    ucf101(tmp_path)
    train = manifest_of(tmp_path, "ucf101", "train1", out="out/train1.csv")
    before = os.stat(tmp_path / "out/labels.txt").st_mtime_ns
    test = manifest_of(tmp_path, "ucf101", "test1", out="out/test1.csv")
    assert os.stat(tmp_path / "out/labels.txt").st_mtime_ns == before
    assert (
        train.label_names == test.label_names == ("ApplyEyeMakeup", "HandstandPushups")
    )


def test_a_label_that_the_labels_file_lacks_is_an_error_with_a_way_out(tmp_path):
    ucf101(tmp_path)
    write(tmp_path / "out/labels.txt", "ApplyEyeMakeup\nBowling\n")
    with pytest.raises(ValueError) as error:
        manifest_of(tmp_path, "ucf101", "train1")
    assert "labels.txt lacks the label 'HandstandPushups'" in str(error.value)
    assert "--out in another directory" in str(error.value)
    assert not os.path.exists(tmp_path / "out/manifest.csv")


def test_a_labels_file_that_is_not_sorted_is_refused(tmp_path):
    ucf101(tmp_path)
    write(tmp_path / "out/labels.txt", "HandstandPushups\nApplyEyeMakeup\n")
    with pytest.raises(ValueError, match="labels.txt is not a sorted list"):
        manifest_of(tmp_path, "ucf101", "train1")


def test_missing_files_are_listed_and_the_others_written(tmp_path):
    ucf101(tmp_path)
    os.remove(tmp_path / "media/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi")
    assert len(manifest_of(tmp_path, "ucf101", "train1").rows) == 1
    assert read_csv(tmp_path / "out/manifest.missing.csv") == [
        ("name", "label"),
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "ApplyEyeMakeup"),
    ]


def test_a_list_of_missing_files_goes_when_they_are_there(tmp_path):
    ucf101(tmp_path)
    write(tmp_path / "out/manifest.missing.csv", "of an earlier run")
    manifest_of(tmp_path, "ucf101", "train1")
    assert not os.path.exists(tmp_path / "out/manifest.missing.csv")


def test_without_any_file_the_first_one_and_the_root_are_named(tmp_path):
    ucf101(tmp_path)
    for path in (tmp_path / "media").rglob("*.avi"):
        path.unlink()
    with pytest.raises(FileNotFoundError) as error:
        manifest_of(tmp_path, "ucf101", "train1")
    assert f"--root={tmp_path / 'media'} holds none" in str(error.value)
    assert "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi" in str(error.value)
    assert not os.path.exists(tmp_path / "out")


@pytest.mark.parametrize(
    ("dataset", "split", "message"),
    [
        ("ucf101", "train", "train1, test1, train2"),
        ("hmdb51", None, "--split=None is no split of hmdb51"),
        ("kinetics", "train1", "train, val, test"),
        ("audioset", "test", "balanced_train, unbalanced_train, train, eval"),
        ("vggsound", "val", "train, test"),
        ("esc50", "test6", "train5, test5, all"),
        ("dcase2013", "test6", "all, train1, evaluate1"),
        ("tut2016", "train5", "evaluate4, test4, all"),
        ("folder", "train", "a folder has no splits"),
    ],
)
def test_an_unknown_split_names_those_that_there_are(tmp_path, dataset, split, message):
    put(tmp_path, "media/a.mp4")
    with pytest.raises(ValueError, match=message):
        manifest_of(tmp_path, dataset, split)


def test_annotations_lie_in_the_root_unless_told(tmp_path):
    put(tmp_path / "media", "audio/1-100-A-0.wav")
    write(
        tmp_path / "media/meta/esc50.csv",
        "filename,fold,target,category,esc10,src_file,take\n"
        "1-100-A-0.wav,1,0,dog,True,100,A\n",
    )
    out = str(tmp_path / "all.csv")
    make_manifest("esc50", str(tmp_path / "media"), split="all", out=out)
    assert [row.path for row in read_manifest(out).rows] == [
        "media/audio/1-100-A-0.wav"
    ]


def test_linked_files_and_folders_are_found_under_their_name_here(tmp_path):
    put(tmp_path, "elsewhere/a.mp4", "elsewhere/b.mp4")
    (tmp_path / "media/dog").mkdir(parents=True)
    os.symlink(tmp_path / "elsewhere/a.mp4", tmp_path / "media/dog/x.mp4")
    os.symlink(tmp_path / "elsewhere", tmp_path / "media/cat")
    os.symlink(tmp_path / "gone.mp4", tmp_path / "media/dog/gone.mp4")
    os.symlink(tmp_path / "media", tmp_path / "media/dog/loop")
    assert found(tmp_path, "folder") == [
        ("cat/a.mp4", "cat"),
        ("cat/b.mp4", "cat"),
        ("dog/x.mp4", "dog"),
    ]


def test_annotations_are_not_overwritten(tmp_path):
    kinetics(tmp_path, train="yoga,aaaaaaaaaaa,1,11,train\n")
    put(tmp_path / "media", "aaaaaaaaaaa.mp4")
    with pytest.raises(ValueError, match="is there and no manifest"):
        manifest_of(tmp_path, "kinetics", "train", out="lists/train.csv")


@pytest.mark.parametrize("out", ["out/manifest", "s3://bucket/manifest.csv"])
def test_the_manifest_is_a_local_csv_file(tmp_path, out):
    put(tmp_path / "media", "a.mp4")
    with pytest.raises(ValueError, match="must be a local file that ends in .csv"):
        make_manifest("folder", str(tmp_path / "media"), out=out)


def test_a_name_that_no_line_can_hold_is_refused(tmp_path):
    put(tmp_path, "media/a\nb.mp4")
    with pytest.raises(ValueError, match="line break.*rename"):
        manifest_of(tmp_path, "folder")


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="--root=.*media is no directory"):
        manifest_of(tmp_path, "folder")


def test_an_annotation_twice_is_one_row(tmp_path):
    kinetics(tmp_path, train=2 * "yoga,aaaaaaaaaaa,1,11,train\n")
    put(tmp_path / "media", "aaaaaaaaaaa.mp4")
    assert len(manifest_of(tmp_path, "kinetics", "train").rows) == 1


# Folders.


def test_sub_folders_are_labels_at_whatever_depth(tmp_path):
    put(tmp_path / "media", "dog/b.mp4", "dog/deep/a.MOV", "cat/c.wav", "cat/notes.txt")
    assert found(tmp_path, "folder") == [
        ("cat/c.wav", "cat"),
        ("dog/b.mp4", "dog"),
        ("dog/deep/a.MOV", "dog"),
    ]
    assert labels_of(tmp_path) == ["cat", "dog"]


def test_media_directly_in_the_root_have_no_label_and_need_no_labels_file(tmp_path):
    put(tmp_path, "media/b.mp4", "media/a.mp4", "media/._a.mp4")
    assert found(tmp_path, "folder") == [("a.mp4", ""), ("b.mp4", "")]
    assert not os.path.exists(tmp_path / "out/labels.txt")


@pytest.mark.parametrize(
    "name",
    *[
        [
            f"x{suffix}"
            for suffix in (
                ".gif",
                ".wma",
                ".oga",
                ".aif",
                ".weba",
                ".mka",
                ".3g2",
                ".qt",
                ".DV",
            )
        ]
    ],
)
def test_a_suffix_of_media_is_known(tmp_path, name):
    put(tmp_path / "media", name)
    assert found(tmp_path, "folder") == [(name, "")]


def test_files_that_are_left_out_are_counted_by_suffix_and_named(tmp_path):
    put(tmp_path / "media", "a.mp4", "notes.txt", "b/c.TXT", "b/picture.jpg", "README")
    os.symlink(tmp_path / "gone.mp4", tmp_path / "media/gone.mp4")
    written = make_manifest(
        "folder", str(tmp_path / "media"), out=str(tmp_path / "all.csv")
    )
    assert describe(written).splitlines()[-1] == (
        "left out, no media by their names: 5 files (2 .txt, 1 without suffix, 1 .jpg, "
        "1 .mp4), such as README"
    )


def test_a_folder_without_media_says_what_it_holds(tmp_path):
    put(tmp_path / "media", "a.zip")
    with pytest.raises(FileNotFoundError, match=r"but 1 files \(1 .zip\), such as a"):
        manifest_of(tmp_path, "folder")


# UCF101.


def test_ucf101_keeps_the_order_of_its_list_and_takes_test_labels_from_folders(
    tmp_path,
):
    ucf101(tmp_path)
    assert found(tmp_path, "ucf101", "test1") == [
        ("HandstandPushups/v_HandStandPushups_g01_c01.avi", "HandstandPushups"),
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", "ApplyEyeMakeup"),
    ]


@pytest.mark.parametrize(
    "path",
    [
        "HandstandPushups/v_HandstandPushups_g08_c01.avi",
        "HandStandPushups/v_HandStandPushups_g08_c01.avi",
    ],
)
def test_ucf101_finds_handstand_pushups_however_the_s_is_written(tmp_path, path):
    lists = ucf101(tmp_path)
    write(lists / "trainlist01.txt", f"{path} 2\n")
    assert found(tmp_path, "ucf101", "train1") == [
        ("HandstandPushups/v_HandStandPushups_g08_c01.avi", "HandstandPushups")
    ]


def test_ucf101_may_lie_deeper_and_be_encoded_anew(tmp_path):
    lists = ucf101(tmp_path)
    write(lists / "trainlist02.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g02_c01.avi 1\n")
    put(tmp_path / "media", "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g02_c01.mp4")
    assert found(tmp_path, "ucf101", "train2") == [
        ("UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g02_c01.mp4", "ApplyEyeMakeup")
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 2", "has not the number 1"),
        ("Bowling/v_Bowling_g08_c01.avi 1", "'Bowling' is no class of classInd.txt"),
        ("../secret/v.avi 1", "'../secret/v.avi' leads out of the root"),
        ("/etc/v.avi 1", "'/etc/v.avi' leads out of the root"),
    ],
)
def test_a_wrong_line_of_ucf101_is_named(tmp_path, line, message):
    lists = ucf101(tmp_path)
    first = "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\n"
    write(lists / "trainlist01.txt", first + line + "\n")
    with pytest.raises(ValueError, match=f"trainlist01.txt line 2: .*{message}"):
        manifest_of(tmp_path, "ucf101", "train1")


def test_a_missing_list_is_named(tmp_path):
    ucf101(tmp_path)
    with pytest.raises(FileNotFoundError, match="lists holds no trainlist03.txt"):
        manifest_of(tmp_path, "ucf101", "train3")


# HMDB51.


def test_hmdb51_takes_1_for_training_and_2_for_testing_with_odd_names(tmp_path):
    hmdb51(tmp_path)
    assert found(tmp_path, "hmdb51", "train1") == [
        ("shoot_ball/#20_Rhythm_shoot_ball_u_cm_np1_fr_goo_0.avi", "shoot_ball"),
        ("smile/April_09_smile_h_nm_np1_fr_goo_0.avi", "smile"),
    ]
    assert found(tmp_path, "hmdb51", "test1") == [
        ("shoot_ball/(HD)_Bad_Boys!_shoot_ball_f_cm_np1_ri_med_1.avi", "shoot_ball")
    ]
    assert found(tmp_path, "hmdb51", "train2") == [
        ("shoot_ball/A&B;C's_shoot_ball_u_nm_np1_fr_goo_2.avi", "shoot_ball")
    ]


def test_hmdb51_takes_no_file_of_another_class(tmp_path):
    lists = hmdb51(tmp_path)
    write(
        lists / "shoot_ball_test_split3.txt",
        "#20_Rhythm_shoot_ball_u_cm_np1_fr_goo_0.avi 1\n"
        "April_09_smile_h_nm_np1_fr_goo_0.avi 1\n",
    )
    assert len(found(tmp_path, "hmdb51", "train3")) == 1
    assert read_csv(tmp_path / "out/manifest.missing.csv")[1:] == [
        ("shoot_ball/April_09_smile_h_nm_np1_fr_goo_0.avi", "shoot_ball")
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.avi 3", "'a.avi 3' is not a file name and 0, 1 or 2"),
        ("a.avi", "'a.avi' is not a file name and 0, 1 or 2"),
        ("../a.avi 1", "'../a.avi' leads out of the root"),
        ("/a.avi 1", "'/a.avi' leads out of the root"),
    ],
)
def test_a_wrong_line_of_hmdb51_is_named(tmp_path, line, message):
    lists = hmdb51(tmp_path)
    write(lists / "smile_test_split1.txt", line + "\n")
    with pytest.raises(ValueError, match=f"smile_test_split1.txt line 1: {message}"):
        manifest_of(tmp_path, "hmdb51", "train1")


def test_hmdb51_without_lists_of_the_split_says_so(tmp_path):
    hmdb51(tmp_path)
    with pytest.raises(FileNotFoundError, match="no CLASS_test_split3.txt"):
        manifest_of(tmp_path, "hmdb51", "train3")


# Kinetics.


def test_kinetics_clips_lie_in_class_folders_with_spaces_or_underscores_or_flat(
    tmp_path,
):
    kinetics(
        tmp_path,
        train="playing tennis,-56QUhyDQM_,185,195,train\n"
        "climbing a rope,---QUuC4vJs,0,10,train\n"
        '"petting animal (not cat)",ccccccccccc,5,15,train\n',
    )
    put(
        tmp_path / "media",
        "playing tennis/-56QUhyDQM__000185_000195.mp4",
        "train/climbing_a_rope/---QUuC4vJs_000000_000010.mkv",
        "ccccccccccc_000005_000015.webm",
    )
    whole = (0.0, None)
    assert segments(tmp_path, "kinetics", "train") == [
        ("playing tennis/-56QUhyDQM__000185_000195.mp4", *whole, "playing tennis"),
        (
            "train/climbing_a_rope/---QUuC4vJs_000000_000010.mkv",
            *whole,
            "climbing a rope",
        ),
        ("ccccccccccc_000005_000015.webm", *whole, "petting animal (not cat)"),
    ]


def test_kinetics_takes_a_segment_of_a_whole_video(tmp_path):
    kinetics(tmp_path, train="yoga,aaaaaaaaaaa,84,94,train\n")
    put(tmp_path / "media", "yoga/aaaaaaaaaaa.mp4")
    assert segments(tmp_path, "kinetics", "train") == [
        ("yoga/aaaaaaaaaaa.mp4", 84.0, 94.0, "yoga")
    ]


def test_trimmed_files_have_no_segment(tmp_path):
    kinetics(tmp_path, train="yoga,aaaaaaaaaaa,84,94,train\n")
    put(tmp_path / "media", "yoga/aaaaaaaaaaa.mp4")
    assert segments(tmp_path, "kinetics", "train", trimmed=True) == [
        ("yoga/aaaaaaaaaaa.mp4", 0.0, None, "yoga")
    ]


def test_kinetics_prefers_the_clip_to_the_whole_video_and_the_folder_of_its_class(
    tmp_path,
):
    kinetics(tmp_path, train="yoga,aaaaaaaaaaa,84,94,train\n")
    put(
        tmp_path / "media",
        "aaaaaaaaaaa.mp4",
        "all/aaaaaaaaaaa_000084_000094.mp4",
        "yoga/aaaaaaaaaaa_000084_000094.mp4",
        "yoga/aaaaaaaaaaa_000084_000094.aac",
    )
    assert found(tmp_path, "kinetics", "train") == [
        ("yoga/aaaaaaaaaaa_000084_000094.mp4", "yoga")
    ]


def test_kinetics_test_files_may_have_no_label_and_labels_come_from_all_files(tmp_path):
    kinetics(
        tmp_path,
        train="yoga,aaaaaaaaaaa,1,11,train\n",
        val="archery,bbbbbbbbbbb,1,11,validate\n",
        test="ccccccccccc,1,11,test\n",
    )
    put(tmp_path / "media", "ccccccccccc_000001_000011.mp4")
    assert found(tmp_path, "kinetics", "test") == [
        ("ccccccccccc_000001_000011.mp4", "")
    ]
    assert labels_of(tmp_path) == ["archery", "yoga"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("val.csv", "val"),
        ("validate.csv", "val"),
        ("kinetics-400_val.csv", "val"),
        ("kinetics700_2020_validate.csv", "val"),
        ("kinetics-400_train.csv", "train"),
    ],
)
def test_kinetics_knows_the_names_of_its_files(tmp_path, name, split):
    row = "yoga,aaaaaaaaaaa,84,94,x,0\n"
    header = "label,youtube_id,time_start,time_end,split,is_cc\n"
    write(tmp_path / "lists" / name, header + row)
    # As labels of the same directory, with another header.
    write(tmp_path / f"lists/labels_{split}.csv", "id,name\n0,yoga\n")
    put(tmp_path / "media", "aaaaaaaaaaa.mp4")
    assert found(tmp_path, "kinetics", split) == [("aaaaaaaaaaa.mp4", "yoga")]


def test_several_kinetics_files_of_a_split_must_be_told_apart(tmp_path):
    lists = kinetics(tmp_path, train="yoga,aaaaaaaaaaa,84,94,train\n")
    write(lists / "kinetics-600_train.csv", KINETICS_HEADER)
    put(tmp_path / "media", "aaaaaaaaaaa.mp4")
    with pytest.raises(ValueError, match="kinetics-600_train.csv, train.csv; give one"):
        manifest_of(tmp_path, "kinetics", "train")


def test_one_kinetics_file_may_hold_all_splits(tmp_path):
    rows = "yoga,aaaaaaaaaaa,1,11,train\nyoga,bbbbbbbbbbb,1,11,validate\n"
    write(tmp_path / "all.csv", KINETICS_HEADER + rows)
    put(tmp_path / "media", "aaaaaaaaaaa.mp4", "bbbbbbbbbbb.mp4")
    out = str(tmp_path / "val.csv")
    make_manifest(
        "kinetics",
        str(tmp_path / "media"),
        annotations=str(tmp_path / "all.csv"),
        split="val",
        out=out,
    )
    assert [row.path for row in read_manifest(out).rows] == ["media/bbbbbbbbbbb.mp4"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("yoga,../../etc/x,1,11,train", "'../../etc/x' leads out of the root"),
        ("yoga,/etc/x,1,11,train", "'/etc/x' leads out of the root"),
        ("yoga,aaaaaaaaaaa,one,11,train", "'one' is not a number of seconds"),
        ("yoga,aaaaaaaaaaa,11,11,train", "the end 11 is not after the start 11"),
        ("yoga,aaaaaaaaaaa,1,11", "4 values for the 5 columns"),
    ],
)
def test_a_wrong_line_of_kinetics_is_named(tmp_path, line, message):
    put(tmp_path, "media/a.mp4")
    kinetics(tmp_path, train=line + "\n")
    with pytest.raises(ValueError, match=f"train.csv line 2: {message}"):
        manifest_of(tmp_path, "kinetics", "train")


def test_a_clip_under_two_classes_has_no_label_but_both_in_the_list_of_all(tmp_path):
    rows = "yoga,aaaaaaaaaaa,1,11,train\narchery,aaaaaaaaaaa,1,11,train\n"
    kinetics(tmp_path, train=rows)
    put(tmp_path / "media", "aaaaaaaaaaa_000001_000011.mp4")
    (row,) = manifest_of(tmp_path, "kinetics", "train").rows
    assert row.label == ""
    assert read_csv(tmp_path / "out/manifest.all_labels.csv")[1:] == [
        ("../media/aaaaaaaaaaa_000001_000011.mp4", "", "yoga"),
        ("../media/aaaaaaaaaaa_000001_000011.mp4", "", "archery"),
    ]


def test_kinetics_sounds_takes_its_31_classes_of_kinetics(tmp_path):
    assert len(set(kinetics_lists.SOUNDS)) == 31
    rows = [
        f"{name},{k:011d},1,11,train" for k, name in enumerate(kinetics_lists.SOUNDS)
    ]
    kinetics(tmp_path, train="\n".join([*rows, "yoga,aaaaaaaaaaa,1,11,train"]) + "\n")
    put(tmp_path / "media", *(f"{k:011d}.mp4" for k in range(31)), "aaaaaaaaaaa.mp4")
    manifest = manifest_of(tmp_path, "kinetics_sounds", "train")
    assert tuple(row.label for row in manifest.rows) == kinetics_lists.SOUNDS
    assert labels_of(tmp_path) == sorted(kinetics_lists.SOUNDS)


def test_lists_without_the_classes_of_kinetics_sounds_are_refused(tmp_path):
    kinetics(tmp_path, train="yoga,aaaaaaaaaaa,1,11,train\n")
    put(tmp_path / "media", "aaaaaaaaaaa.mp4")
    with pytest.raises(ValueError, match="lacks the classes.*'blowing nose'.*-400"):
        manifest_of(tmp_path, "kinetics_sounds", "train")


# AudioSet.


def test_audioset_puts_all_labels_in_the_manifest(tmp_path):
    audioset(
        tmp_path,
        '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n'
        '-zhevVpy1s_, 50.000, 60.000, "/m/0ytgt"\n',
    )
    put(tmp_path / "media", "--PJHxphWEs.mp4", "-zhevVpy1s_.mp4")
    assert segments(tmp_path, "audioset", "eval") == [
        ("--PJHxphWEs.mp4", 30.0, 40.0, "Speech|Gush"),
        ("-zhevVpy1s_.mp4", 50.0, 60.0, "Child speech, kid speaking"),
    ]
    assert read_csv(tmp_path / "out/manifest.csv")[0][-1] == "labels"
    assert read_manifest(str(tmp_path / "out/manifest.csv")).several_labels
    assert labels_of(tmp_path) == ["Child speech, kid speaking", "Gush", "Speech"]


def test_all_training_segments_of_audioset_are_one_split(tmp_path):
    lists = audioset(tmp_path, "")
    for name, video_id in (("un", "aaaaaaaaaaa"), ("", "bbbbbbbbbbb")):
        line = f'{video_id}, 30.000, 40.000, "/m/09x0r"\n'
        write(lists / f"{name}balanced_train_segments.csv", AUDIOSET_HEAD + line)
    put(tmp_path / "media", "aaaaaaaaaaa.mp4", "bbbbbbbbbbb.mp4")
    found = segments(tmp_path, "audioset", "train")
    assert [row[0] for row in found] == ["aaaaaaaaaaa.mp4", "bbbbbbbbbbb.mp4"]


@pytest.mark.parametrize(
    "name",
    [
        "-zhevVpy1s__50000_60000.flac",
        "eval/-zhevVpy1s__50000.m4a",
        "Y-zhevVpy1s_.wav",
        "Y-zhevVpy1s__50.000_60.000.wav",
    ],
)
def test_audioset_files_that_are_cut_have_no_segment(tmp_path, name):
    audioset(tmp_path, '-zhevVpy1s_, 50.000, 60.000, "/m/09x0r"\n')
    put(tmp_path / "media", name)
    assert segments(tmp_path, "audioset", "eval") == [(name, 0.0, None, "Speech")]


def test_an_unknown_class_of_audioset_is_named_with_its_line(tmp_path):
    audioset(tmp_path, 'aaaaaaaaaaa, 0.000, 10.000, "/m/09x0r,/m/none"\n')
    put(tmp_path / "media", "aaaaaaaaaaa.mp4")
    with pytest.raises(ValueError, match="eval_segments.csv line 4: '/m/none' is no"):
        manifest_of(tmp_path, "audioset", "eval")


def test_audioset_labels_without_quotes_are_refused(tmp_path):
    audioset(tmp_path, "aaaaaaaaaaa, 0.000, 10.000, /m/09x0r,/t/dd00088\n")
    put(tmp_path / "media", "aaaaaaaaaaa.mp4")
    with pytest.raises(ValueError, match="line 4: 5 values instead of 4.*quote"):
        manifest_of(tmp_path, "audioset", "eval")


# VGGSound.


def test_vggsound_takes_ten_seconds_and_labels_with_commas(tmp_path):
    write(
        tmp_path / "lists/vggsound.csv",
        '---g-f_I2yQ,1,"people marching, singing",test\r\n'
        "--0PQM4-hqg,30,waterfall burbling,train\r\n"
        "aaaaaaaaaaa,0,dog barking,test\r\n"
        "bbbbbbbbbbb,100,dog barking,test\r\n",
    )
    put(
        tmp_path / "media",
        "---g-f_I2yQ_000001.mp4",
        "aaaaaaaaaaa.mp4",
        "bbbbbbbbbbb_100000_110000.flac",
    )
    assert segments(tmp_path, "vggsound", "test") == [
        ("---g-f_I2yQ_000001.mp4", 0.0, None, "people marching, singing"),
        ("aaaaaaaaaaa.mp4", 0.0, 10.0, "dog barking"),
        ("bbbbbbbbbbb_100000_110000.flac", 0.0, None, "dog barking"),
    ]
    assert labels_of(tmp_path) == [
        "dog barking",
        "people marching, singing",
        "waterfall burbling",
    ]


def test_another_split_in_vggsound_is_named_with_its_line(tmp_path):
    put(tmp_path, "media/aaaaaaaaaaa.mp4")
    write(tmp_path / "lists/vggsound.csv", "aaaaaaaaaaa,0,dog barking,val\n")
    with pytest.raises(ValueError, match="vggsound.csv line 1: 'val' is not train or"):
        manifest_of(tmp_path, "vggsound", "train")


# ESC-50.


@pytest.mark.parametrize(
    ("split", "files"),
    [
        ("train1", ["audio/2-2-A-1.wav"]),
        ("test1", ["audio/1-1-A-0.wav", "audio/1-3-A-0.wav"]),
        ("all", ["audio/1-1-A-0.wav", "audio/2-2-A-1.wav", "audio/1-3-A-0.wav"]),
    ],
)
def test_esc50_trains_on_the_other_folds(tmp_path, split, files):
    label_of_file = {
        "audio/1-1-A-0.wav": "dog",
        "audio/2-2-A-1.wav": "chirping_birds",
        "audio/1-3-A-0.wav": "dog",
    }
    put(tmp_path / "media", *label_of_file)
    write(
        tmp_path / "lists/meta/esc50.csv",
        "filename,fold,target,category,esc10,src_file,take\n"
        "1-1-A-0.wav,1,0,dog,True,1,A\n"
        "2-2-A-1.wav,2,1,chirping_birds,False,2,A\n"
        "1-3-A-0.wav,1,0,dog,True,3,A\n",
    )
    expected = [(file, label_of_file[file]) for file in files]
    assert found(tmp_path, "esc50", split) == expected
    assert labels_of(tmp_path) == ["chirping_birds", "dog"]


# Acoustic scenes.


def test_dcase2013_takes_the_label_from_the_name(tmp_path):
    put(tmp_path / "media", "scenes_stereo/bus01.wav", "audio/test_tubestation10.wav")
    assert found(tmp_path, "dcase2013", "all") == [
        ("audio/test_tubestation10.wav", "tubestation"),
        ("scenes_stereo/bus01.wav", "bus"),
    ]


def test_dcase2013_folds_are_those_of_evaluation_setup(tmp_path):
    put(tmp_path / "media", "scenes_stereo/bus01.wav", "scenes_stereo/park02.wav")
    setup = tmp_path / "lists/evaluation_setup"
    write(setup / "fold1_train.txt", "scenes_stereo/park02.wav\tpark\n")
    write(setup / "fold1_test.txt", "scenes_stereo/bus01.wav\n")
    assert found(tmp_path, "dcase2013", "train1") == [
        ("scenes_stereo/park02.wav", "park")
    ]
    assert found(tmp_path, "dcase2013", "test1") == [("scenes_stereo/bus01.wav", "bus")]
    assert labels_of(tmp_path) == ["bus", "park"]


def test_another_name_in_dcase2013_is_refused(tmp_path):
    put(tmp_path, "media/bus01.wav", "media/readme.mp3")
    with pytest.raises(
        ValueError, match="'readme.mp3' is not named by a scene and two"
    ):
        manifest_of(tmp_path, "dcase2013", "all")


def tut2016(tmp_path):
    put(tmp_path / "media", "audio/a001_0_30.wav", "audio/b020_90_120.wav")
    lists = tmp_path / "lists"
    write(
        lists / "meta.txt",
        "audio/b020_90_120.wav\tcafe/restaurant\r\naudio/a001_0_30.wav\tbeach\r\n",
    )
    setup = lists / "evaluation_setup"
    write(setup / "fold1_train.txt", "audio/a001_0_30.wav\tbeach\n")
    write(setup / "fold1_test.txt", "audio/b020_90_120.wav\n")
    return setup


def test_tut2016_reads_folds_and_the_whole(tmp_path):
    setup = tut2016(tmp_path)
    write(setup / "fold1_evaluate.txt", "audio/b020_90_120.wav\tcafe/restaurant\n")
    cafe = ("audio/b020_90_120.wav", "cafe/restaurant")
    beach = ("audio/a001_0_30.wav", "beach")
    assert found(tmp_path, "tut2016", "train1") == [beach]
    assert labels_of(tmp_path) == ["beach", "cafe/restaurant"]
    assert found(tmp_path, "tut2016", "evaluate1") == [cafe]
    assert found(tmp_path, "tut2016", "test1") == [cafe]
    assert found(tmp_path, "tut2016", "all") == [cafe, beach]


def test_tut2016_test_files_without_a_scene_take_it_from_meta(tmp_path):
    tut2016(tmp_path)
    assert found(tmp_path, "tut2016", "test1") == [
        ("audio/b020_90_120.wav", "cafe/restaurant")
    ]


def test_a_line_of_tut2016_that_leaves_the_root_is_named(tmp_path):
    setup = tut2016(tmp_path)
    write(setup / "fold1_train.txt", "audio/../../x.wav\tbeach\n")
    with pytest.raises(ValueError, match="fold1_train.txt line 1: 'audio/../../x.wav'"):
        manifest_of(tmp_path, "tut2016", "train1")


# The command.


def run_program(*flags):
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    return subprocess.run(
        [sys.executable, "-m", "data_prep.make_manifest", *flags],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_program_says_what_it_wrote(tmp_path):
    lists = audioset(
        tmp_path,
        'aaaaaaaaaaa, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n'
        'bbbbbbbbbbb, 50.000, 60.000, "/m/0ytgt"\n'
        'ccccccccccc, 50.000, 60.000, "/m/0ytgt"\n',
    )
    put(tmp_path / "media", "aaaaaaaaaaa.mp4", "bbbbbbbbbbb.mp4")
    done = run_program(
        "--dataset=audioset",
        f"--root={tmp_path / 'media'}",
        f"--annotations={lists}",
        "--split=eval",
        f"--out={tmp_path / 'eval.csv'}",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{tmp_path / 'eval.csv'}: 2 rows",
        f"{tmp_path / 'labels.txt'}: 3 labels",
        f"{tmp_path / 'eval.missing.csv'}: 1 annotated clips not found",
    ]


def test_a_mistake_is_one_line_and_exit_code_1(tmp_path):
    done = run_program(
        "--dataset=folder", f"--root={tmp_path / 'no'}", f"--out={tmp_path / 'a.csv'}"
    )
    assert done.returncode == 1
    assert "error: --root=" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("dataset", "split", "name"),
    [
        ("esc50", "train1", "meta/esc50.csv"),
        ("ucf101", "train1", "classInd.txt"),
        ("vggsound", "train", "vggsound.csv"),
        ("tut2016", "all", "meta.txt"),
        ("kinetics", "train", "train.csv"),
        ("audioset", "eval", "class_labels_indices.csv"),
    ],
)
def test_annotations_that_never_end_are_not_read(tmp_path, dataset, split, name):
    put(tmp_path / "media", "a.mp4")
    path = tmp_path / "lists" / name
    path.parent.mkdir(parents=True)
    for make in (os.mkfifo, lambda path: os.symlink("/dev/zero", path)):
        make(path)
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            manifest_of(tmp_path, dataset, split)
        assert "--annotations" in str(error.value) or name in str(error.value)
        path.unlink()


def test_annotations_of_more_than_a_gibibyte_are_refused(tmp_path):
    put(tmp_path / "media", "a.mp4")
    (tmp_path / "lists").mkdir()
    with open(tmp_path / "lists" / "vggsound.csv", "wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(ValueError, match="vggsound.csv has 1024 MiB, the limit"):
        manifest_of(tmp_path, "vggsound", "train")


def test_a_pipe_in_the_place_of_a_manifest_is_not_waited_for(tmp_path):
    put(tmp_path / "media", "a.mp4")
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / "manifest.csv")
    with pytest.raises(ValueError, match="manifest.csv is a pipe"):
        manifest_of(tmp_path, "folder")


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path):
    put(tmp_path / "media", *(f"dog/{number}.mp4" for number in range(100)))
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        "from data_prep import make_manifest; make_manifest.run()"
    )
    command = [
        *(sys.executable, "-c", program, "--dataset=folder"),
        *(f"--root={tmp_path / 'media'}", f"--out={tmp_path / 'videos.csv'}"),
    ]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "videos.csv" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(os.listdir(tmp_path)) == ["labels.txt", "media"]
    assert len(found(tmp_path, "folder")) == 100
