"""Names of clusters: read, checked, resolved through merges, and made labels."""

import pytest

from data_prep import manifest
from xdc_tf.inference import cluster_names
from xdc_tf.inference.new_videos import Row

NUM_CLUSTERS = {"audio": 5, "video": 3}
HEADER = "source,round,cluster,name,junk,merged_into\n"


def read(tmp_path, text, **changes):
    path = tmp_path / "names.csv"
    path.write_text(text, encoding="utf-8")
    arguments = {"round_index": 2, "num_clusters": NUM_CLUSTERS} | changes
    return cluster_names.read_names(str(path), **arguments)


def test_names_merges_and_junk_are_resolved(tmp_path):
    names = read(
        tmp_path,
        HEADER
        + 'audio,2,0,"dogs, barking",0,\n'
        + "audio,2,1,ignored,0,2\n"
        + "audio,2,2,,0,0\n"
        + "audio,2,3,noise,1,\n"
        + "video,2,1,unused,0,2\n",
    )
    dogs = "dogs, barking"
    assert names == {"audio": [dogs, dogs, dogs, "", ""], "video": ["", "", ""]}


def test_a_cluster_merged_into_junk_has_no_name(tmp_path):
    names = read(tmp_path, HEADER + "audio,2,0,dogs,0,1\naudio,2,1,noise,1,\n")
    assert names["audio"] == [""] * 5


def test_other_rounds_further_columns_and_a_byte_order_mark_are_left_out(tmp_path):
    header = "\ufeff" + HEADER.strip() + ",remark\n"
    names = read(tmp_path, header + "audio,1,4,old,0,,\naudio,2,4,birds,,,sure\n")
    assert names["audio"] == ["", "", "", "", "birds"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source,round,cluster,name\n", "has no column junk, merged_into"),
        ("", "has no column source"),
        (HEADER + "audio,2,0\n", "line 2: 3 values, and the header has 6"),
        (HEADER + 'audio,2,0,"dogs,0,\n', "line 2"),
        (HEADER + "audio,2,0,dogs,yes,\n", "junk is 'yes', and must be 0 or 1"),
        (HEADER + "audio,two,0,dogs,0,\n", "round is 'two', not a whole number"),
        (HEADER + "audio,2,-1,dogs,0,\n", "cluster is '-1', not a whole number"),
        (HEADER + "audio,2,5,dogs,0,\n", "the clusters 0 to 4, and none 5"),
        (HEADER + "audio,2,0,,0,5\n", "the clusters 0 to 4, and none 5"),
        (HEADER + "joint,2,0,dogs,0,\n", "no clustering 'joint', but audio, video"),
        (HEADER + "audio,2,0,a,0,\naudio,2,0,b,0,\n", "audio 0 is named above"),
        (HEADER + "audio,2,0,,0,1\naudio,2,1,,0,0\n", "lead back to it"),
        (HEADER + "audio,1,0,dogs,0,\n", "names clusters of 1, and .* of round 2"),
        (HEADER, "names clusters of no round"),
    ],
)
def test_what_is_wrong_is_refused_with_the_place(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, text)
    assert "names.csv" in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        cluster_names.read_names(
            str(tmp_path / "none.csv"), round_index=2, num_clusters=NUM_CLUSTERS
        )


def test_the_only_clustering_with_names_is_the_default():
    names = {"audio": ["", ""], "video": ["", "cars"]}
    assert cluster_names.choose_source(names, None) == "video"
    with pytest.raises(ValueError, match="is 'audio', .* with names are: video"):
        cluster_names.choose_source(names, "audio")
    both = {"audio": ["dogs"], "video": ["cars"]}
    assert cluster_names.choose_source(both, "audio") == "audio"
    with pytest.raises(ValueError, match="is not given, .* are: audio, video"):
        cluster_names.choose_source(both, None)


def test_the_manifest_names_the_files_and_segments_of_labelled_rows(tmp_path):
    rows = [
        Row("a, b.mp4", "a, b.mp4", 0.0, 4.0),
        Row("c.mp4", "c.mp4#t=1,3", 1.0, 3.0),
        Row("unnamed.mp4", "unnamed.mp4", 0.0, 4.0),
        Row("broken.mp4", "broken.mp4", 0.0, None, "cannot_open"),
        Row("s3://bucket/d.mp4", "s3://bucket/d.mp4", 0.0, 4.0),
    ]
    labels = ["dogs", "cars", "", "dogs", "dogs"]
    path = str(tmp_path / "manifest.csv")
    assert cluster_names.write_manifest(path, rows, labels, folder="/videos") == 3
    read_back = manifest.read_manifest(path)
    assert [
        (row.file, row.start_secs, row.end_secs, row.label) for row in read_back.rows
    ] == [
        ("/videos/a, b.mp4", 0.0, None, "dogs"),
        ("/videos/c.mp4", 1.0, 3.0, "cars"),
        ("s3://bucket/d.mp4", 0.0, None, "dogs"),
    ]
