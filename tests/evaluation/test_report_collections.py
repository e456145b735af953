"""Collections of reports: what they keep, how they look, and damaged ones."""

import copy
import json

import pytest
from forked_commands import run_command

from xdc_tf.evaluation import report_collections
from xdc_tf.runtime import json_files

pytestmark = pytest.mark.once


def _report(method="xdc", *, seed=0, top1=0.5, streams=("video", "audio"), **changes):
    about = {"kind": "pretrained", "method": method, "seed": seed}
    metrics = {"top1": top1, "top5": 1.0, "mean_class": top1}
    curve = [{"epoch": 1, "train_loss": 2.0 + seed}]
    details = {"confusion": [[seed, 1], [0, 2]], "learning_curve": curve}
    split = {"split": "1", "metrics": metrics, "details": details}
    result = {"metric": "top1", "mean": metrics, "std": dict.fromkeys(metrics)}
    # Through text, so that no part of it is shared.
    report = {
        "format_version": 1,
        "protocol": "linear",
        "time": f"2026-01-01T00:00:0{seed}Z",
        "source": {stream: about for stream in streams},
        "results": [
            {"stream": stream} | result | {"splits": [split]} for stream in streams
        ],
        "settings": {"seed": seed, "milestones": []},
        "records": {},
        "notes": ["a note"],
        "config": {"method": method, "clip": {"fps": 4.0, "num_frames": 4}},
        "versions": {"numpy": "1.26.4"},
    } | changes
    return json.loads(json.dumps(report))


def _without_curves(report):
    report = copy.deepcopy(report)
    for result in report["results"]:
        for split in result["splits"]:
            del split["details"]["learning_curve"]
    return report


def _round_trip(tmp_path, reports):
    path = str(tmp_path / "all.json")
    report_collections.write(path, reports)
    return path, report_collections.read(path)


def test_reports_come_back_with_all_but_their_learning_curves(tmp_path):
    reports = {
        "a.json": _report(top1=0.1 + 0.2),
        "b.json": _report("cdc", seed=1, settings={"milestones": [3], "seed": 1}),
        "c.json": _report("cdc", streams=("audio",), notes=[]),
        "d.json": _report(seed=2, results=[], records={"train": {"sha256": "00"}}),
    }
    path, found = _round_trip(tmp_path, reports)
    # As text, which tells 1 from 1.0 and has the order of the keys.
    assert json.dumps(found) == json.dumps(
        {f"{path}/{name}": _without_curves(reports[name]) for name in reports}
    )


def test_the_reports_that_are_collected_keep_their_learning_curves(tmp_path):
    report = _report()
    _round_trip(tmp_path, {"a.json": report})
    assert report == _report()


@pytest.mark.parametrize("values", [(1, 1.0), (0, False), ([], {}), ("1", 1)])
def test_values_that_python_takes_for_equal_stay_apart(tmp_path, values):
    reports = {
        str(number): _report(config={"value": value})
        for number, value in enumerate(values)
    }
    _, found = _round_trip(tmp_path, reports)
    assert [json.dumps(report["config"]["value"]) for report in found.values()] == [
        json.dumps(value) for value in values
    ]


def test_a_report_is_a_line_with_what_differs_from_most(tmp_path):
    reports = {str(seed): _report(seed=seed, top1=0.5) for seed in range(3)}
    reports["2"]["config"]["clip"]["fps"] = 8.0
    path, _ = _round_trip(tmp_path, reports)
    with open(path) as file:
        lines = file.read().splitlines()
    assert lines[:3] == [
        "{",
        '"collection_version": 1,',
        '"reports": [',
    ]
    assert lines[3] == '{"name":"0","template":0,"values":{}},'
    line = json.loads(lines[5])
    assert line["values"]["config"] == {"clip": {"fps": 8.0}}
    change = {"splits": [{"details": {"confusion": [[2, 1], [0, 2]]}}]}
    assert line["values"]["results"] == [change, change]
    assert json.loads("\n".join(lines))["templates"][0]["config"]["clip"]["fps"] == 4.0


def test_a_collection_of_collections_is_one_too(tmp_path):
    path, first = _round_trip(tmp_path, {"a.json": _report(), "b.json": _report("cdc")})
    again = str(tmp_path / "again.json")
    names = report_collections.make_names(list(first))
    assert names == ["a.json", "b.json"]
    report_collections.write(again, dict(zip(names, first.values(), strict=True)))
    with open(path) as old, open(again) as new:
        assert old.read() == new.read()


def test_names_are_paths_from_the_folder_that_all_reports_are_in():
    assert report_collections.make_names(
        ["runs/a/results/x.json", "runs/b/results/x.json"]
    ) == ["a/results/x.json", "b/results/x.json"]
    assert report_collections.make_names(["runs/a/x.json"]) == ["x.json"]


def test_a_report_alone_is_read_by_its_path(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(_report()))
    assert report_collections.read(str(path)) == {str(path): _report()}


def test_a_number_beyond_floats_is_read_as_of_a_report_alone(tmp_path):
    text = json.dumps(_damaged(lambda collection: None))
    path = tmp_path / "all.json"
    path.write_text(text.replace('"fps": 4.0', '"fps": 1e999'))
    for report in report_collections.read(str(path)).values():
        assert report["config"]["clip"]["fps"] == float("inf")


def test_what_is_not_finite_is_not_written(tmp_path):
    report = _report(top1=float("nan"))
    with pytest.raises(ValueError, match="a.json has a number that is not finite"):
        report_collections.write(str(tmp_path / "all.json"), {"a.json": report})
    assert not list(tmp_path.iterdir())


def _damaged(change):
    """A collection of two reports, in which something is changed."""
    entries = [{"name": name, "template": 0, "values": {}} for name in "ab"]
    collection = {
        "collection_version": 1,
        "reports": entries,
        "templates": [_report()],
    }
    change(collection)
    return collection


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.update(collection_version=2), "collection_version 2, this progr"),
        (lambda c: c.pop("templates"), "lacks templates."),
        (lambda c: c.update(reports={}), "unusable value under reports, {}."),
        (lambda c: c["reports"][1].pop("name"), r"reports\[1\] lacks name."),
        (lambda c: c["reports"][1].update(name="a"), "the name of another report, 'a'"),
        (lambda c: c["reports"][1].update(template=1), "template 1, but there are 1."),
        (lambda c: c["reports"][1].update(template=-1), "value under template, -1."),
        (
            lambda c: c["reports"][1].update(values={"results": [{}]}),
            r"reports\[1\] does not fit its template: \[\{\}\] is in place of a list "
            "of 2 objects.",
        ),
        (
            lambda c: c["reports"][1].update(values={"config": {"x": 1}}),
            r"reports\[1\] does not fit its template: \{'x': 1\} is in place of an obj",
        ),
        (
            lambda c: c["reports"][1].update(values={"source": 3}),
            "does not fit its template: 3 is in place of an object",
        ),
        (
            lambda c: c["reports"][1].update(values={"protocol": 3}),
            r"reports\[1\] has an unusable value under protocol, 3.",
        ),
        (
            lambda c: c["templates"][0].pop("results"),
            r"reports\[0\] is no report, it l",
        ),
        (
            lambda c: c["templates"][0]["settings"].update(row=["x"]),
            r"reports\[0\]: settings has an unusable value under row",
        ),
    ],
)
def test_what_is_damaged_is_named_with_the_file(tmp_path, change, message):
    path = tmp_path / "all.json"
    path.write_text(json.dumps(_damaged(change)))
    with pytest.raises(ValueError, match=message) as caught:
        report_collections.read(str(path))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_reports_of_more_bytes_than_a_file_may_have_are_refused(tmp_path, monkeypatch):
    path, _ = _round_trip(tmp_path, {str(k): _report() for k in range(9)})
    monkeypatch.setattr(json_files, "MAX_BYTES", 4000)
    with pytest.raises(ValueError, match="all.json holds reports of more than 4000 by"):
        report_collections.read(path)


@pytest.fixture
def paths(tmp_path):
    paths = []
    for method in ("xdc", "cdc"):
        for seed in (0, 1):
            path = tmp_path / method / f"{seed}.json"
            path.parent.mkdir(exist_ok=True)
            report = _report(method, seed=seed, top1=0.5 + 0.125 * seed)
            path.write_text(json.dumps(report))
            paths.append(str(path))
    return paths


def test_compare_prints_of_a_collection_what_it_prints_of_the_reports(paths, tmp_path):
    collection = tmp_path / "folder" / "all.json"
    of_reports = run_command("xdc_tf.cli.compare", *paths, f"--collect={collection}")
    of_collection = run_command("xdc_tf.cli.compare", collection)
    assert (of_reports.returncode, of_reports.stderr) == (0, "")
    assert (of_collection.returncode, of_collection.stderr) == (0, "")
    assert of_collection.stdout == of_reports.stdout
    assert "| cdc | 56.2 ± 8.8 (2) |" in of_reports.stdout
    names = [path.removeprefix(f"{tmp_path}/") for path in paths]
    assert list(report_collections.read(str(collection))) == [
        f"{collection}/{name}" for name in names
    ]


def test_a_row_s_name_that_was_given_is_collected_too(paths, tmp_path):
    collection = tmp_path / "all.json"
    arguments = [paths[0], f"more videos={paths[1]}", f"--collect={collection}"]
    of_reports = run_command("xdc_tf.cli.compare", *arguments)
    of_collection = run_command("xdc_tf.cli.compare", collection)
    assert "| more videos |" in of_collection.stdout
    assert of_collection.stdout == of_reports.stdout


def test_a_report_that_is_given_twice_is_not_collected(paths, tmp_path):
    collection = tmp_path / "all.json"
    done = run_command(
        "xdc_tf.cli.compare",
        f"a={paths[0]}",
        f"b={paths[0]}",
        f"--collect={collection}",
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {paths[0]} is given 2 times")
    assert done.stderr.count("\n") == 1 and not collection.exists()


def test_a_foreign_file_is_an_error_of_one_line(tmp_path):
    foreign = {
        "[]": "holds no JSON object",
        "{}": "has format_version None",
        "": "JSON",
    }
    for number, (text, message) in enumerate(foreign.items()):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        done = run_command("xdc_tf.cli.compare", path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"error: {path}") and message in done.stderr
        assert done.stderr.count("\n") == 1
