import hashlib
import os
import re

import pytest

from data_prep.manifest import read_manifest

pytestmark = pytest.mark.once


def write(folder, text):
    path = folder / "manifest.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_rows_are_numbered_in_order_and_found_beside_the_manifest(tmp_path):
    path = write(tmp_path, "path,label\nv/a.mp4,dog\n/b.mp4,bell\n")
    rows = read_manifest(path).rows
    assert [row.example_index for row in rows] == [0, 1]
    assert [row.file for row in rows] == [str(tmp_path / "v/a.mp4"), "/b.mp4"]
    assert [row.path for row in rows] == ["v/a.mp4", "/b.mp4"]


def test_path_alone_is_enough(tmp_path):
    (row,) = read_manifest(write(tmp_path, "path\na.mp4\n")).rows
    assert (row.start_secs, row.end_secs, row.label) == (0.0, None, "")


def test_a_segment_becomes_a_media_fragment_in_the_id(tmp_path):
    text = "path,start_secs,end_secs\na.mp4,,\na.mp4,1.50,3\na.mp4,4,\na.mp4,,2\n"
    rows = read_manifest(write(tmp_path, text)).rows
    ids = [row.video_id for row in rows]
    assert ids == ["a.mp4", "a.mp4#t=1.5,3", "a.mp4#t=4", "a.mp4#t=0,2"]


def test_label_names_are_sorted_and_without_the_empty_one(tmp_path):
    text = "path,label\na.mp4,dog\nb.mp4,\nc.mp4,bell\nd.mp4,dog\n"
    assert read_manifest(write(tmp_path, text)).label_names == ("bell", "dog")


def test_a_label_may_hold_commas_when_quoted(tmp_path):
    path = write(tmp_path, 'path,label\na.mp4,"dog, barking"\n')
    assert read_manifest(path).rows[0].label == "dog, barking"


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path):
    assert read_manifest(write(tmp_path, "\ufeffpath\na.mp4\n")).rows


def test_the_hash_is_that_of_the_file(tmp_path):
    expected = hashlib.sha256(b"path\na.mp4\n").hexdigest()
    assert read_manifest(write(tmp_path, "path\na.mp4\n")).sha256 == expected


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.csv does not exist"):
        read_manifest(str(tmp_path / "none.csv"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.mp4,x\n", "line 1: no column 'path'"),
        ("path,start\na.mp4,1\n", "line 1: unknown or repeated.*start"),
        ("", "line 1: no column 'path'"),
        ("path,label\n", "no rows"),
        ("path,label\n ,x\n", "line 2: path is empty"),
        ("path,label\na.mp4\n", "line 2: not as many values"),
        ("path,label\na.mp4,x,y\n", "line 2: not as many values"),
        ("path,start_secs\na.mp4,0:10\n", "line 2: start_secs='0:10' is not a number"),
        ("path,end_secs\na.mp4,nan\n", "line 2: end_secs='nan' must be from 0 to"),
        ("path,end_secs\na.mp4,1e18\n", "line 2: end_secs='1e18' must be from 0 to"),
        ('path\n"a.mp4\nb.mp4\n', "line 3: unexpected end of data"),
        ('path\n"a.mp4" b\n', "line 2: .* expected after"),
        (f"path\n{'a' * 200_000}\n", "line 2: field larger than"),
        ("path,start_secs\na.mp4,-1\n", "line 2: start_secs='-1'"),
        ("path,start_secs,end_secs\na.mp4,2,2\n", "line 2: end_secs=2.0 is not after"),
        ("path\na.mp4\nb.mp4\n./a.mp4\n", "line 4: ./a.mp4 is already on line 2"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"manifest.csv.*{message}"):
        read_manifest(write(tmp_path, text))


def test_a_manifest_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_bytes("path\nä.mp4\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        read_manifest(str(path))


def test_labels_beside_the_manifest_number_it_whatever_it_has_itself(tmp_path):
    (tmp_path / "labels.txt").write_text("bell\ncat\ndog\n", encoding="utf-8")
    manifest = read_manifest(write(tmp_path, "path,label\na.mp4,dog\nb.mp4,\n"))
    assert manifest.label_names == ("bell", "cat", "dog")


def test_a_file_of_labels_can_be_named(tmp_path):
    (tmp_path / "names").write_text("z\na\n", encoding="utf-8")
    path = write(tmp_path, "path,label\na.mp4,a\n")
    manifest = read_manifest(path, labels=str(tmp_path / "names"))
    assert manifest.label_names == ("z", "a")
    with pytest.raises(FileNotFoundError, match="file of labels .*none does not"):
        read_manifest(path, labels=str(tmp_path / "none"))


def test_a_label_that_the_file_of_labels_lacks_is_an_error(tmp_path):
    (tmp_path / "labels.txt").write_text("bell\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"has the labels \['dog'\], which .*labels.t"):
        read_manifest(write(tmp_path, "path,label\na.mp4,dog\n"))


def test_a_name_is_taken_as_it_is(tmp_path):
    text = 'path\n" a b.mp4 "\n"-x ""y"".mp4"\n"line\nbreak.mp4"\n../up.mp4\n'
    rows = read_manifest(write(tmp_path, text)).rows
    assert [row.path for row in rows] == [
        " a b.mp4 ",
        '-x "y".mp4',
        "line\nbreak.mp4",
        "../up.mp4",
    ]
    assert rows[3].file == str(tmp_path.parent / "up.mp4")


def test_a_name_with_a_nul_is_refused(tmp_path):
    with pytest.raises(ValueError, match="line 2: path=.* holds a NUL"):
        read_manifest(write(tmp_path, "path\na\0b.mp4\n"))


def test_names_beside_a_remote_manifest_are_remote(tmp_path, monkeypatch):
    from data_prep import manifest as module

    content = b"path\nv/a.mp4\ns3://other/b.mp4\n/mnt/c.mp4\n"
    monkeypatch.setattr(
        module.remote_files, "exists", lambda path: not path.endswith("labels.txt")
    )
    monkeypatch.setattr(
        module.remote_files, "read_bytes", lambda path, limit_bytes: content
    )
    rows = read_manifest("s3://bucket/set/videos.csv").rows
    assert [row.file for row in rows] == [
        "s3://bucket/set/v/a.mp4",
        "s3://other/b.mp4",
        "/mnt/c.mp4",
    ]


@pytest.mark.parametrize("name", ["manifest.csv", "labels.txt"])
def test_pipes_and_devices_are_no_manifests_and_no_labels(tmp_path, name):
    write(tmp_path, "path,label\na.mp4,x\n")
    (tmp_path / name).unlink(missing_ok=True)
    for make in (os.mkfifo, lambda path: os.symlink("/dev/zero", path)):
        make(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} is a pipe, socket or device"):
            read_manifest(str(tmp_path / "manifest.csv"))
        (tmp_path / name).unlink()


def test_a_manifest_of_more_than_a_gibibyte_is_refused(tmp_path):
    with open(tmp_path / "manifest.csv", "wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(ValueError, match="manifest.csv has more than 1024 MiB"):
        read_manifest(str(tmp_path / "manifest.csv"))


def test_several_labels_are_in_a_column_of_their_own(tmp_path):
    path = write(tmp_path, "path,labels\na.mp4,rain | dog\nb.mp4,\nc.mp4,dog\n")
    manifest = read_manifest(path)
    assert manifest.several_labels
    assert [row.label for row in manifest.rows] == ["rain|dog", "", "dog"]
    assert manifest.label_names == ("dog", "rain")


def test_a_label_with_a_bar_is_one_label_where_rows_have_one(tmp_path):
    manifest = read_manifest(write(tmp_path, "path,label\na.mp4,rain|dog\n"))
    assert not manifest.several_labels
    assert manifest.label_names == ("rain|dog",)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("dog||rain", "line 2: labels 'dog||rain' have an empty name, or one twice"),
        ("dog|dog", "line 2: labels 'dog|dog' have an empty name, or one twice"),
        ("|".join(map(str, range(65))), "line 2: 65 labels, and the limit is 64"),
    ],
)
def test_labels_that_cannot_be_are_named(tmp_path, labels, message):
    path = write(tmp_path, f"path,labels\na.mp4,{labels}\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        read_manifest(path)


def test_one_label_and_several_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="unknown or repeated columns"):
        read_manifest(write(tmp_path, "path,label,labels\na.mp4,x,y\n"))
