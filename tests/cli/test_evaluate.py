"""Every protocol of the evaluate command, from records of real files."""

import csv
import json

import pytest
from forked_commands import ROOT, run_command

from xdc_tf.evaluation.classifier_training import SELECTION_NOTE


def evaluate(*flags):
    return run_command("xdc_tf.cli.evaluate", *flags)


@pytest.fixture(scope="module")
def evaluated(tiny_run, tiny_records, tmp_path_factory):
    """Finished commands and their reports, by protocol."""
    folder = tmp_path_factory.mktemp("evaluated")
    common = [
        f"--records={tiny_records / 'train'}",
        f"--test_records={tiny_records / 'test'}",
        "--num_clips=2",
        "--streams=audio",
    ]
    tiny = [
        "--config=configs/finetune/synthetic.py",
        "--config.training.num_epochs=1",
        "--config.training.batch_size=4",
    ]
    commands = {
        "finetune": [*common, f"--scratch={ROOT}/configs/synthetic.py", *tiny],
        "svm": [*common, f"--workdir={tiny_run}", "--initial", "--num_devices=2"],
    }
    commands["finetune"] += [
        *("--scratch.audio_encoder.depth=4", "--scratch.video_encoder.depth=4"),
        f"--out={folder / 'scratch'}",
    ]
    done = {}
    for protocol, flags in commands.items():
        path = folder / f"{protocol}.json"
        process = evaluate(f"--protocol={protocol}", f"--json={path}", *flags)
        assert process.returncode == 0, process.stderr
        assert process.stderr == ""
        done[protocol] = process, json.loads(path.read_text())
    return folder, done


@pytest.mark.parametrize("protocol", ["finetune", "svm"])
def test_a_report_says_what_was_done(evaluated, protocol):
    _, done = evaluated
    process, report = done[protocol]
    (result,) = report["results"]
    assert (report["protocol"], result["stream"]) == (protocol, "audio")
    assert 0 <= result["mean"]["top1"] <= result["mean"]["top5"] <= 1
    assert f"top1 {100 * result['mean']['top1']:.1f}" in process.stdout
    details = result["splits"][0]["details"]
    assert sum(map(sum, details["confusion"])) == 12
    assert set(report["versions"]) == {"tensorflow", "keras", "numpy"}
    kind = {"finetune": "scratch", "svm": "initial"}[protocol]
    source = report["source"]["audio"]
    assert (source["kind"], source["seed"]) == (kind, 0)
    assert (source["encoder_sha256"] is None) == (kind == "scratch")


def test_results_of_a_scratch_encoder_are_kept_in_out(evaluated):
    folder, done = evaluated
    with open(folder / "scratch" / "results.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["protocol"], row["method"]) == ("finetune", "scratch")
    assert float(row["value"]) == done["finetune"][1]["results"][0]["mean"]["top1"]
    assert (folder / "scratch" / "split_1" / "audio_encoder.keras").exists()
    assert done["finetune"][1]["notes"][-1] == SELECTION_NOTE


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--records=a"], "give --workdir or --scratch"),
        (["--workdir={run}"], "--records is missing"),
        (
            ["--protocol=localization", "--workdir={run}"],
            "--protocol=localization needs --videos, --out",
        ),
        (
            ["--protocol=localization", "--workdir={run}", "--initial"]
            + ["--videos=a", "--out=b"],
            "trained encoders; drop --initial",
        ),
        (
            ["--workdir={run}", "--records={train}", "--streams=smell"],
            "--streams=['smell'] are none of ['video', 'audio']",
        ),
        (
            ["--workdir={run}", "--records={train}", "--test_records={train}"],
            "are also in training",
        ),
    ],
)
def test_bad_input_is_one_line(tiny_run, tiny_records, flags, told):
    places = {"run": tiny_run, "train": tiny_records / "train"}
    process = evaluate(*(flag.format(**places) for flag in flags))
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ") and told in line
