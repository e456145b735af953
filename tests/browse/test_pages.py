"""Pages of a tiny run as a whole: their tables, resuming, hostile names, bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.pairwise import cosine_similarity

from xdc_tf.browse import media_files, page_files, pages
from xdc_tf.data import example_tables
from xdc_tf.evaluation import reports
from xdc_tf.evaluation.reports import SplitResult
from xdc_tf.labels import label_tables

pytestmark = pytest.mark.once

SOURCES = ["audio", "video"]
LAST = 2


def table(page, name):
    return page_files.read_table(str(page), name)


def labels_of(workdir, round_index, source):
    table = label_tables.read(workdir / "labels" / f"round_{round_index:03d}")
    return np.array(table.clusterings[source].labels)


def test_the_folder_holds_the_page_its_tables_and_the_clips(tiny_page):
    names = {path.name for path in (tiny_page / "data").iterdir()}
    rounds = {f"{kind}-000{n}.js" for kind in ("labels", "round") for n in range(3)}
    maps = {
        f"{kind}-{source}.js" for kind in ("map", "neighbours") for source in SOURCES
    }
    assert names == {"overview.js", "media.js", "examples-0.js"} | rounds | maps
    own = {path.name for path in pages.page_files._PAGE_DIR.glob("*.*")}
    others = {"plotly.min.js", "state.json", "data", "media"}
    assert {path.name for path in tiny_page.iterdir()} == own | others
    assert "plotly" in (tiny_page / "plotly.min.js").read_text()[:300].lower()


def test_examples_and_labels_are_those_of_records_and_run(tiny, tiny_page):
    examples = example_tables.read_examples(str(tiny.records))
    block = table(tiny_page, "examples-0")
    assert block["ids"] == examples.video_ids.tolist()
    assert block["labels"] == examples.labels.tolist()
    for round_index in range(3):
        labels = table(tiny_page, f"labels-{round_index:04d}")
        for source in SOURCES:
            expected = labels_of(tiny.workdir, round_index, source)
            assert labels[source] == expected.tolist()


def test_the_overview_tells_of_the_run_and_of_every_round(tiny, tiny_page):
    overview = table(tiny_page, "overview")
    assert (overview["method"], overview["title"]) == ("xdc", "run")
    assert overview["config"]["kmeans.num_clusters"] == 4
    assert overview["data"]["num_examples"] == overview["data"]["num_rows"] == 24
    assert overview["data"]["hours"] == pytest.approx(24 * 1.5 / 3600, rel=1e-4)
    assert sorted(overview["sources"]) == SOURCES
    assert overview["shown_rounds"] == [0, 1, 2]
    assert [each["round"] for each in overview["rounds"]] == [0, 1, 2]
    for each in overview["rounds"]:
        audio, video = (
            labels_of(tiny.workdir, each["round"], source) for source in SOURCES
        )
        expected = normalized_mutual_info_score(audio, video)
        figures = each["clusterings"]["audio"]["nmi"]
        assert figures == {"video": pytest.approx(expected, abs=1e-5)}
    assert overview["rounds"][0]["clusterings"]["audio"]["nmi_previous"] is None


def test_members_are_of_their_cluster_and_all_have_a_clip(tiny, tiny_page):
    media = table(tiny_page, "media")
    for round_index in range(3):
        clusterings = table(tiny_page, f"round-{round_index:04d}")["clusterings"]
        for source in SOURCES:
            labels = labels_of(tiny.workdir, round_index, source)
            for row in clusterings[source]["clusters"]:
                shown = [member["example"] for member in row["members"]]
                assert len(shown) == min(6, row["size"]) == len(set(shown))
                assert (labels[shown] == row["cluster"]).all()
                assert set(map(str, shown)) <= set(media)


def test_the_last_round_has_distances_of_the_features_and_others_have_none(
    tiny, tiny_page
):
    features = np.load(tiny.workdir / "features" / "audio.npy").astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    centroids = label_tables.read(
        tiny.workdir / "labels" / "round_002"
    ).clusterings["audio"].centroids  # fmt: skip
    rows = table(tiny_page, "round-0002")["clusterings"]["audio"]["clusters"]
    for row in rows:
        for member in row["members"]:
            apart = np.linalg.norm(features[member["example"]] - centroids, axis=1)
            own = apart[row["cluster"]]
            assert member["distance"] == pytest.approx(own, rel=1e-3, abs=1e-5)
            margin = np.delete(apart, row["cluster"]).min() - own
            assert member["margin"] == pytest.approx(margin, rel=1e-2, abs=1e-4)
    kinds = {member["kind"] for row in rows for member in row["members"]}
    assert kinds == {"typical", "borderline", "random"}
    for row in table(tiny_page, "round-0001")["clusterings"]["audio"]["clusters"]:
        assert row["dispersion"] is None
        for member in row["members"]:
            assert (member["kind"], member["distance"]) == ("random", None)


def test_flows_lead_from_the_round_before_to_this_one(tiny, tiny_page):
    assert "flows" not in table(tiny_page, "round-0000")
    flow = table(tiny_page, "round-0002")["flows"]["video"]
    before, now = (labels_of(tiny.workdir, number, "video") for number in (1, 2))
    assert flow["from"] == 1
    for old, new, count in flow["counts"]:
        assert count == np.sum((before == old) & (now == new))
    assert sum(count for *_, count in flow["counts"]) == 24


def test_cells_of_the_cross_table_hold_examples_of_both_clusters(tiny, tiny_page):
    cross = table(tiny_page, "round-0002")["cross"]
    assert {cross["rows"], cross["columns"]} == set(SOURCES)
    first, second = (
        labels_of(tiny.workdir, 2, cross[key]) for key in ("rows", "columns")
    )
    media = table(tiny_page, "media")
    assert {tuple(count[:2]) for count in cross["counts"]} == {
        tuple(map(int, cell.split(","))) for cell in cross["examples"]
    }
    for cell, examples in cross["examples"].items():
        for example in examples:
            assert f"{first[example]},{second[example]}" == cell
            assert str(example) in media


def test_maps_and_neighbours_are_of_the_last_features(tiny, tiny_page):
    for source in SOURCES:
        feature_map = table(tiny_page, f"map-{source}")
        assert feature_map["examples"] == list(range(24))
        assert np.isfinite([feature_map["x"], feature_map["y"]]).all()
        cosines = cosine_similarity(np.load(tiny.workdir / f"features/{source}.npy"))
        neighbours = table(tiny_page, f"neighbours-{source}")
        assert set(neighbours) == set(table(tiny_page, "media"))
        for example, nearest in neighbours.items():
            for other, cosine in nearest:
                expected = cosines[int(example), other]
                assert cosine == pytest.approx(expected, abs=1e-3)
    assert table(tiny_page, "overview")["maps"]["video"]["sample"] == 24


def test_clips_of_originals_move_and_sound(tiny_page):
    media = table(tiny_page, "media")
    for example, facts in media.items():
        assert (facts["from"], facts["note"], facts["has_sound"]) == ("file", "", True)
        assert facts["clip"] == f"media/{example}.mp4"
    with av.open(str(tiny_page / media["0"]["clip"])) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    with av.open(str(tiny_page / media["0"]["clip"])) as container:
        sound = [frame.to_ndarray() for frame in container.decode(audio=0)]
    assert np.ptp(np.array(frames), axis=0).max() > 30
    assert np.abs(np.concatenate(sound, axis=1)).max() > 0.01


@pytest.mark.slow
def test_without_originals_clips_are_of_the_records_and_say_so(tiny, tmp_path):
    page = tiny.make(
        tmp_path / "page", videos=None, rounds="last", examples_per_cluster=1
    )
    media = table(page, "media")
    for facts in media.values():
        assert (facts["from"], facts["has_sound"]) == ("records", False)
        assert facts["note"] == "no sound stored"
        assert (page / facts["clip"]).exists() and (
            page / facts["spectrogram"]
        ).exists()
    with av.open(str(page / next(iter(media.values()))["clip"])) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(frames) == 12 and np.ptp(np.array(frames), axis=0).max() > 30


@pytest.mark.slow
def test_originals_that_are_gone_or_changed_are_replaced_by_the_records(
    tiny, copied, tmp_path
):
    videos = tmp_path / "videos"
    shutil.copytree(tiny.videos, videos)
    gone, changed, whole, *_ = sorted((videos / "videos").iterdir())
    gone.unlink()
    with av.open(str(changed), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 32
        for _ in range(40):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    page = copied._replace(videos=videos).make(
        tmp_path / "page", rounds="last", examples_per_cluster=24
    )
    media = table(page, "media")
    assert (media["0"]["from"], media["1"]["from"]) == ("records", "records")
    assert "the original was not found" in media["0"]["note"]
    assert "5.00 s now, and 1.50 s were converted" in media["1"]["note"]
    assert (media["2"]["from"], media["2"]["note"]) == ("file", "")
    # Brought back, it is used; the others are kept.
    kept = (page / media["2"]["clip"]).stat().st_mtime_ns
    shutil.copy(tiny.videos / "videos" / gone.name, gone)
    page = copied._replace(videos=videos).make(
        page, rounds="last", examples_per_cluster=24
    )
    media = table(page, "media")
    assert (media["0"]["from"], media["0"]["note"]) == ("file", "")
    assert (page / media["2"]["clip"]).stat().st_mtime_ns == kept


@pytest.mark.slow
def test_fewer_examples_leave_no_clip_and_no_table_of_the_others(tiny, tmp_path):
    arguments = {"videos": None, "examples_per_cluster": 2}
    page = tiny.make(tmp_path / "page", rounds="all", **arguments)
    tiny.make(page, rounds="1", examples_per_cluster=1, videos=None)
    media = table(page, "media")
    paths = {facts[key] for facts in media.values() for key in ("clip", "poster")}
    there = {f"media/{path.name}" for path in (page / "media").iterdir()}
    assert {path for path in there if not path.endswith(".png")} == paths
    assert not (page / "data" / "round-0000.js").exists()
    assert table(page, "overview")["shown_rounds"] == [1]


@pytest.mark.slow
def test_a_killed_build_goes_on_with_the_clips_that_are_there(tiny, tmp_path):
    page = tmp_path / "page"
    command = [sys.executable, "-m", "xdc_tf.cli", "browse"]
    command += [f"--workdir={tiny.workdir}", f"--records={tiny.records}"]
    command += [f"--videos={tiny.videos}", f"--out={page}", "--num_workers=1"]
    command += ["--rounds=last", "--examples_per_cluster=24"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            time.sleep(0.005)
            if (page / "state.json").exists():
                done = json.loads((page / "state.json").read_text())["media"]
                if done:
                    break
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 0 < len(done) < 24
    before = {
        name: (page / "media" / f"{name}.mp4").stat().st_mtime_ns for name in done
    }
    assert not (page / "data" / "overview.js").exists()
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == f"Open {page}/index.html\n"
    assert "24 examples are shown" in finished.stderr and "MB" in finished.stderr
    for name, written in before.items():
        assert (page / "media" / f"{name}.mp4").stat().st_mtime_ns == written
    whole = tiny.make(tmp_path / "whole", rounds="last", examples_per_cluster=24)
    for path in whole.rglob("*"):
        if path.suffix in (".mp4", ".jpg", ".png") or "round-" in path.name:
            other = page / path.relative_to(whole)
            assert other.read_bytes() == path.read_bytes(), path.name


def test_ids_and_labels_of_strangers_stay_text(renamed, tmp_path):
    ids = {
        0: "<script>alert(1)</script>.mp4",
        1: "\"'`${x}</script><!--&amp;\\",
        2: "\u202egpj.mp4",
        3: "x" * 4000,
        4: "../../../etc/passwd",
        5: "/etc/passwd",
        6: "a\nb\u2028c",
    }
    label = "<img src=x onerror=alert(1)>"
    directories = renamed(ids, label)
    page = directories.make(tmp_path / "page", rounds="last", examples_per_cluster=24)
    block = table(page, "examples-0")
    assert [block["ids"][number] for number in ids] == list(ids.values())
    assert table(page, "overview")["data"]["label_names"][0] == label
    for path in (page / "data").iterdir():
        assert not set(path.read_bytes()) & set(b"<>&"), path.name
    media = table(page, "media")
    # What a name leads to outside of the folder of videos is not looked at.
    assert {media[str(number)]["from"] for number in ids} == {"records"}
    names = {path.name for path in (page / "media").iterdir()}
    assert all(name.split(".")[0].isdecimal() for name in names)


def test_a_run_of_one_source_has_no_cross_table(copied, tmp_path):
    for round_dir in (copied.workdir / "labels").iterdir():
        ids = list(label_tables.read_video_ids(round_dir))
        round_table = label_tables.read(round_dir)
        label_tables.write(
            round_dir,
            clusterings={"audio": round_table.clusterings["audio"]},
            video_ids=ids,
            settings=round_table.settings,
        )
    page = copied.make(tmp_path / "page", rounds="last", examples_per_cluster=1)
    assert "cross" not in table(page, f"round-000{LAST}")
    assert table(page, "overview")["sources"] == ["audio"]


def test_without_features_members_are_random_and_there_is_no_map(copied, tmp_path):
    shutil.rmtree(copied.workdir / "features")
    page = copied.make(tmp_path / "page", rounds="last", examples_per_cluster=1)
    assert table(page, "overview")["maps"] == {}
    clusters = table(page, "round-0002")["clusterings"]["video"]["clusters"]
    assert {m["kind"] for row in clusters for m in row["members"]} == {"random"}


def test_evaluations_of_the_run_are_in_the_overview(copied, tmp_path):
    report = reports.make_report(
        "linear",
        [[SplitResult("video", {"top1": 0.5}, {})]],
        split_names=["1"],
        source={"video": {"kind": "trained", "method": "xdc", "seed": 0}},
        settings={},
        config={},
        records={},
    )
    reports.write(report, workdir=str(copied.workdir), path=str(tmp_path / "r.json"))
    page = copied.make(tmp_path / "page", rounds="last", examples_per_cluster=1)
    assert table(page, "overview")["evaluations"] == [
        {
            "name": "r.json",
            "protocol": "linear",
            "rows": [{"stream": "video", "encoder": "trained", "top1": 0.5}],
        }
    ]


def test_a_damaged_record_costs_its_own_clip(copied, tmp_path):
    shard = sorted(copied.records.glob("*.tfrecord"))[0]
    data = bytearray(shard.read_bytes())
    data[200:260] = bytes(60)  # in the first record
    shard.write_bytes(data)
    page = copied.make(
        tmp_path / "page", videos=None, rounds="last", examples_per_cluster=24
    )
    media = table(page, "media")
    assert media["0"]["clip"] is None
    assert "the record cannot be read" in media["0"]["note"]
    assert all(media[str(number)]["clip"] for number in range(1, 24))


# Bad input.


def test_records_of_other_videos_are_refused(tiny, tiny_records, tmp_path):
    other = tiny._replace(records=tiny_records / "test")
    with pytest.raises(ValueError, match="24 rows.*is of 12.*Give the --records"):
        other.make(tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_records_of_the_same_number_of_other_videos_are_refused(copied, tmp_path):
    path = copied.records / "examples.csv"
    text = path.read_text().replace("seed0_000007.mp4", "another.mp4")
    path.write_text(text)
    with pytest.raises(ValueError, match="example 7 is .*seed0_000007.*another.mp4"):
        copied.make(tmp_path / "page")


def test_a_run_without_labels_is_refused(copied, tmp_path):
    shutil.rmtree(copied.workdir / "labels")
    with pytest.raises(FileNotFoundError, match="has no labels.*wait until"):
        copied.make(tmp_path / "page")


def test_a_round_without_labels_is_refused_by_name(copied, tmp_path):
    os.remove(copied.workdir / "labels" / "round_001" / "audio.labels.npy")
    with pytest.raises(FileNotFoundError, match="round_001/audio.labels.npy: missing"):
        copied.make(tmp_path / "page")


@pytest.mark.parametrize(
    "rounds, message",
    [
        ("7", "no labels of the round 7, but of 0, 1, 2"),
        ("first", "must be all, last or numbers such as 3,5"),
        ("", "must be all, last or numbers"),
        ("1,-1", "no labels of the round -1"),
    ],
)
def test_unknown_rounds_are_refused_with_those_that_there_are(
    tiny, tmp_path, rounds, message
):
    with pytest.raises(ValueError, match=message):
        tiny.make(tmp_path / "page", rounds=rounds)


def test_videos_that_are_no_folder_are_refused(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="--videos=.*is no folder"):
        tiny.make(tmp_path / "page", videos=str(tmp_path / "nowhere"))


def test_a_folder_with_something_else_is_left_as_it_is(tiny, tmp_path):
    (tmp_path / "thesis.doc").write_text("years")
    with pytest.raises(FileExistsError, match="holds something else"):
        tiny.make(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.doc"]


def test_a_disk_without_room_is_told_before_anything_is_made(
    tiny, tmp_path, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(pages.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="are free; lower --examples_per_cluster"):
        tiny.make(tmp_path / "page")
    assert os.listdir(tmp_path / "page" / "media") == []


@pytest.mark.parametrize(
    "video_id, expected",
    [
        ("a/b.mp4", ("a/b.mp4", True)),
        ("deep/a/b.mp4", ("a/b.mp4", True)),
        ("a/b.mp4#t=1,2.5", ("a/b.mp4", False)),
        ("a/c#t=1", ("a/c#t=1", True)),  # a file of that name
        ("/a/b.mp4", ("a/b.mp4", True)),
        ("../a/b.mp4", ("a/b.mp4", True)),
        ("a/../../secret.mp4", None),
        ("a", None),  # a folder
        ("nul\0.mp4", None),
        ("x" * 5000, None),
    ],
)
def test_originals_are_found_below_the_folder_of_videos_alone(
    tmp_path, video_id, expected
):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    for path in (root / "a" / "b.mp4", root / "a" / "c#t=1", tmp_path / "secret.mp4"):
        path.write_text("")
    found = media_files.find_original(video_id, str(root))
    if expected is None:
        assert found[0] == ""
    else:
        assert found == (str(root / expected[0]), expected[1])


def test_without_a_folder_of_videos_an_absolute_path_is_the_original(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("")
    assert media_files.find_original(str(path), None) == (str(path), True)
    assert media_files.find_original("a.mp4", None)[0] == ""
