"""Reports: what is written can be read, appended to, and looked at."""

import concurrent.futures
import csv
import json
import os
import resource

import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.evaluation import report_events, reports
from xdc_tf.evaluation.reports import SplitResult

ABOUT = {"kind": "pretrained", "method": "xdc", "seed": 3, "directory": "run"}


def _report(accuracies=(0.2, 0.3, 0.7), *, streams=("video", "audio"), **changes):
    arguments = {
        "split_names": [str(1 + k) for k in range(len(accuracies))],
        "source": {stream: ABOUT for stream in streams},
        "settings": {"seed": 0},
        "config": {"method": "xdc"},
        "records": {"train": "a"},
        "notes": ["a note"],
    } | changes
    return reports.make_report(
        "linear",
        [
            [
                SplitResult(stream, {"top1": one, "top5": 1.0}, {"c": [[1, 0]]})
                for stream in streams
            ]
            for one in accuracies
        ],
        **arguments,
    )


def _lines(folder):
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_report_is_read_as_it_was_written(tmp_path):
    report = _report()
    path = reports.write(report, workdir=str(tmp_path / "run"))
    assert reports.read(path) == json.loads(json.dumps(report)) == report


def test_mean_and_deviation_are_over_the_splits():
    video, audio = _report()["results"]
    assert (video["stream"], audio["stream"]) == ("video", "audio")
    assert video["metric"] == "top1"
    # Deviations from 0.4 are -0.2, -0.1, 0.3: (0.04 + 0.01 + 0.09) / 2 = 0.07.
    assert video["mean"] == {"top1": pytest.approx(0.4), "top5": 1.0}
    assert video["std"] == {"top1": pytest.approx(0.07**0.5), "top5": 0.0}
    assert video["splits"][2] == {
        "split": "3",
        "metrics": {"top1": 0.7, "top5": 1.0},
        "details": {"c": [[1, 0]]},
    }


def test_one_split_has_no_deviation():
    assert _report([0.5])["results"][0]["std"] == {"top1": None, "top5": None}


def test_results_that_do_not_fit_the_splits_are_an_error():
    with pytest.raises(ValueError):
        _report(split_names=["1"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_written(tmp_path, value):
    report = _report([0.5, value])
    with pytest.raises(ValueError, match="not JSON compliant"):
        reports.write(report, workdir=str(tmp_path / "run"))
    assert os.listdir(tmp_path) == []


def test_evaluations_add_lines_under_one_header(tmp_path):
    first = reports.write(_report(), workdir=str(tmp_path))
    second = reports.write(
        _report([0.5], streams=["video"]),
        workdir=str(tmp_path),
        path=str(tmp_path / "other folder" / "one, two.json"),
    )
    lines = _lines(tmp_path)
    assert [line["stream"] for line in lines] == ["video", "audio", "video"]
    assert [line["json"] for line in lines] == [first, first, second]
    line = lines[2]
    assert (line["method"], line["kind"], line["seed"]) == ("xdc", "pretrained", "3")
    assert (line["metric"], line["value"], line["std"]) == ("top1", "0.5", "")
    assert (lines[0]["num_splits"], line["num_splits"]) == ("3", "1")
    assert float(lines[0]["value"]) == pytest.approx(0.4)


def test_evaluations_side_by_side_lose_no_line(tmp_path):
    def write_some(_):
        for _ in range(5):
            reports._append_csv(str(tmp_path / "results.csv"), _report(), "a.json")

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(write_some, range(4)))
    lines = _lines(tmp_path)
    assert len(lines) == 4 * 5 * 2
    assert {line["protocol"] for line in lines} == {"linear"}


def test_a_full_disk_leaves_the_lines_that_are_there(tmp_path):
    path = tmp_path / "results.csv"
    reports._append_csv(str(path), _report(), "a.json")
    before = path.read_text()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
    try:
        with pytest.raises(OSError, match="results.csv"):
            reports._append_csv(str(path), _report(), "b.json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == before
    assert os.listdir(tmp_path) == ["results.csv"]


def test_what_compares_two_streams_is_listed_with_the_first_encoder(tmp_path):
    report = _report(
        streams=["video_to_audio"],
        source={"video": ABOUT, "audio": ABOUT | {"method": "other"}},
    )
    reports.write(report, workdir=str(tmp_path))
    assert _lines(tmp_path)[0]["method"] == "xdc"


def test_reports_of_one_second_do_not_replace_each_other(tmp_path):
    report = _report()
    paths = [reports.write(report, workdir=str(tmp_path)) for _ in range(3)]
    assert len(set(paths)) == 3
    assert sorted(os.listdir(tmp_path / "results")) == sorted(
        os.path.basename(path) for path in paths
    )
    name = os.path.basename(paths[0])
    assert name.startswith("linear-") and ":" not in name


def _scalars(folder):
    """Values in TensorBoard's file by tag and step."""
    (path,) = (folder / "tensorboard").iterdir()
    return {
        (value.tag, event.step): float(tf.make_ndarray(value.tensor))
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }


def test_tensorboard_can_read_the_means(tmp_path):
    reports.write(_report(), workdir=str(tmp_path))
    values = _scalars(tmp_path)
    assert values["evaluation/linear/video/top1", 0] == pytest.approx(0.4)
    assert sorted(values) == [
        (f"evaluation/linear/{stream}/{name}", 0)
        for stream in ("audio", "video")
        for name in ("top1", "top5")
    ]


def test_tensorboard_can_read_the_learning_curve_of_each_split(tmp_path):
    report = _report([0.5, 0.5], streams=["video"])
    report["results"][0]["splits"][1]["details"]["learning_curve"] = [
        {"epoch": 1, "train_loss": 2.0, "held_out_loss": None},
        {"epoch": 2, "train_loss": 1.0, "held_out_loss": 3.0},
    ]
    reports.write(report, workdir=str(tmp_path))
    curve = {key: v for key, v in _scalars(tmp_path).items() if "split" in key[0]}
    assert curve == {
        ("evaluation/linear/video/split_2/train_loss", 1): 2.0,
        ("evaluation/linear/video/split_2/train_loss", 2): 1.0,
        ("evaluation/linear/video/split_2/held_out_loss", 2): 3.0,
    }


def test_tensorboard_has_the_confusion_matrix_of_all_splits(tmp_path):
    report = _report([0.5, 0.5], streams=["video"])
    for split in report["results"][0]["splits"]:
        split["details"] |= {"class_names": ["a", "b"], "confusion": [[3, 1], [0, 2]]}
    details = [split["details"] for split in report["results"][0]["splits"]]
    matrix = report_events.sum_of_confusions(details)
    np.testing.assert_array_equal(matrix, [[6, 2], [0, 4]])
    reports.write(report, workdir=str(tmp_path))
    (path,) = (tmp_path / "tensorboard").iterdir()
    names = {
        value.tag: value.metadata.summary_description
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    }
    assert "evaluation/linear/video/confusion" in names
    assert all(names.values())


@pytest.mark.parametrize(
    "other",
    [
        {"class_names": ["a", "c"], "confusion": [[1, 0], [0, 1]]},
        {},
    ],
)
def test_confusions_of_other_classes_are_not_added_up(other):
    first = {"class_names": ["a", "b"], "confusion": [[3, 1], [0, 2]]}
    assert report_events.sum_of_confusions([first, other]) is None


def test_the_table_has_means_in_percent_and_the_notes():
    assert reports.table(_report()).splitlines() == [
        "linear, fractions in percent, mean +- standard deviation of 3 splits",
        "video: top1 40.0 +- 26.5, top5 100.0 +- 0.0",
        "audio: top1 40.0 +- 26.5, top5 100.0 +- 0.0",
        "a note",
    ]
    assert "top1 50.0, top5 100.0" in reports.table(_report([0.5]))


def test_what_is_no_share_is_not_in_percent():
    report = _report([0.5], streams=["video"])
    report["results"][0]["mean"] = {"nmi": 0.5, "ari": -0.25}
    report["results"][0]["std"] = {"nmi": None, "ari": None}
    assert "nmi 50.0, ari -0.25" in reports.table(report)


@pytest.mark.parametrize(
    "text, told",
    [
        ("", "is not JSON"),
        ("\x00", "is not JSON"),
        ("[1]", "holds no JSON object"),
        ('{"protocol": "linear", "results": []}', "has format_version None"),
        ('{"format_version": 2}', "has format_version 2, this program reads 1"),
        ('{"format_version": 1}', "is no report, it lacks protocol, source, results"),
    ],
)
def test_other_files_are_refused(tmp_path, text, told):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=f"a.json {told}"):
        reports.read(str(tmp_path / "a.json"))


def _change(path, place, value):
    """Sets what lies under some keys of a JSON file."""
    values = inner = json.loads(path.read_text())
    *keys, last = place
    for key in keys:
        inner = inner[key]
    inner[last] = value
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["protocol"], 1),
        (["time"], None),
        (["source"], []),
        (["source"], {}),
        (["source", "video"], "run"),
        (["source", "video", "method"], ["xdc"]),
        (["source", "video", "seed"], {}),
        (["results"], {"video": 1}),
        (["results", 0], None),
        (["results", 0, "stream"], {}),
        (["results", 0, "metric"], "absent"),
        (["results", 0, "mean"], [0.5]),
        (["results", 0, "mean", "top1"], "0.5"),
        (["results", 0, "mean", "top1"], True),
        (["results", 0, "mean", "top1"], 1e200),
        (["results", 0, "std"], {}),
        (["results", 0, "std", "top1"], "0"),
        (["results", 0, "splits"], 3),
        (["results", 0, "splits", 0], "1"),
        (["results", 0, "splits", 0, "split"], 1),
        (["results", 0, "splits", 0, "metrics", "top1"], None),
        (["settings"], None),
        (["records"], "train"),
        (["notes"], "a note"),
        (["notes", 0], {}),
        (["versions"], []),
    ],
)
def test_an_unusable_value_is_an_error_that_names_the_report(place, value, tmp_path):
    path = tmp_path / "a.json"
    report = _report()
    path.write_text(json.dumps(report))
    assert reports.read(str(path)) == report

    _change(path, place, value)

    expected = "unusable value|no encoder|other metrics|no JSON object"
    with pytest.raises(ValueError, match=f"a.json.*({expected})"):
        reports.read(str(path))


def test_names_in_results_are_no_formulas_of_a_spreadsheet(tmp_path):
    about = ABOUT | {"method": '=HYPERLINK("http://x","y")', "seed": -1}
    reports.write(
        _report(streams=["@video"], source={"@video": about}), workdir=str(tmp_path)
    )
    (line,) = _lines(tmp_path)
    assert line["method"] == '\'=HYPERLINK("http://x","y")'
    assert (line["stream"], line["seed"]) == ("'@video", "-1")


def test_what_is_printed_has_no_escape_sequences():
    report = _report(streams=["\x1b[2Jvideo"], notes=["a\rb", "\u202egnp.exe"])
    assert reports.table(report).splitlines()[1:] == [
        "\\x1b[2Jvideo: top1 40.0 +- 26.5, top5 100.0 +- 0.0",
        "a\\rb",
        "\\u202egnp.exe",
    ]


@pytest.mark.parametrize("name", ["results.csv", "results", "tensorboard"])
def test_a_link_in_a_work_directory_is_not_written_through(name, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "home").mkdir()
    target = tmp_path / "home" / name
    if name == "results.csv":
        target.write_text("alias ls=ls\n")
    else:
        target.mkdir()
    (tmp_path / "run" / name).symlink_to(target)

    for attempt in (
        reports.try_places,
        lambda run: reports.write(_report(), workdir=run),
    ):
        with pytest.raises(ValueError, match=f"{name} is a symbolic link"):
            attempt(str(tmp_path / "run"))

    assert os.listdir(tmp_path / "home") == [name]
    if name == "results.csv":
        assert target.read_text() == "alias ls=ls\n"
    else:
        assert os.listdir(target) == []


def test_a_place_that_cannot_be_written_is_noticed_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    for arguments in (
        (str(tmp_path / "file" / "run"), None),
        (str(tmp_path / "run"), str(tmp_path / "file" / "report.json")),
        (str(tmp_path / "run"), str(tmp_path)),
    ):
        with pytest.raises(OSError, match="cannot be written|is a directory"):
            reports.try_places(*arguments)


def test_what_records_say_of_themselves_is_no_report(tiny_records):
    with pytest.raises(ValueError, match="dataset_info.json is no report"):
        reports.read(str(tiny_records / "test" / "dataset_info.json"))


def test_a_missing_report_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="a.json does not exist; give a report"):
        reports.read(str(tmp_path / "a.json"))
