"""A protocol is a module and a row: one that is added here alone runs by the command.

The test runs this file as a program, which adds the row and starts the command.
"""

import dataclasses
import json
from typing import Annotated

import numpy as np
import pytest
from forked_commands import ROOT, run_command

from xdc_tf.evaluation import protocols
from xdc_tf.evaluation.protocols import UNREPORTED, Protocol, Results, Settings
from xdc_tf.evaluation.reports import SplitResult
from xdc_tf.runtime.typed_settings import FRACTION, Whole

pytestmark = pytest.mark.once


@dataclasses.dataclass(frozen=True, kw_only=True)
class MajoritySettings(Settings):
    """The command's --num_clips, and a key that no flag has."""

    num_clips: Annotated[int, Whole(1, 100)] = 1
    tolerance: Annotated[float, FRACTION, UNREPORTED] = 0.5


def run_majority(source, splits, settings, *, streams, strategy):
    """Calls every test video what most training videos are."""
    assert settings.tolerance == 0.5 and strategy is not None
    results = []
    for split in splits:
        commonest = np.bincount(split.train.labels).argmax()
        hits = float(np.mean(split.test.labels == commonest))
        details = {"class": split.train.class_names[commonest]}
        results.append(
            [SplitResult(stream, {"top1": hits}, details) for stream in streams]
        )
    return Results(results, notes=("no encoder was used",))


@pytest.fixture(scope="module")
def common(tiny_records, tmp_path_factory):
    """Flags of an evaluation, and the path of its report."""
    folder = tmp_path_factory.mktemp("toy")
    path = folder / "report.json"
    return path, [
        "--protocol=majority",
        f"--scratch={ROOT}/configs/synthetic.py",
        f"--records={tiny_records / 'train'}",
        f"--test_records={tiny_records / 'test'}",
        f"--out={folder}",
        f"--json={path}",
    ]


def test_a_protocol_of_one_row_is_run_by_the_command(common):
    path, flags = common
    done = run_command(__file__, *flags, "--streams=audio", "--num_clips=7")
    assert (done.returncode, done.stderr) == (0, "")
    # Videos take turns through ten classes: 2 of 12 test videos are of the first.
    assert "audio: top1 16.7\n" in done.stdout
    report = json.loads(path.read_text())
    assert report["protocol"] == "majority"
    assert report["settings"] == {"streams": ["audio"], "num_clips": 7}
    assert report["results"][0]["mean"] == {"top1": pytest.approx(2 / 12)}
    assert report["notes"][-1] == "no encoder was used"


def test_its_settings_are_checked_by_their_ranges(common):
    done = run_command(__file__, *common[1], "--num_clips=101")
    assert done.returncode == 1
    assert done.stderr == "error: num_clips=101 must be a whole number from 1 to 100.\n"


def test_the_command_lists_it():
    done = run_command(__file__, "--help")
    assert "<linear|finetune|svm|retrieval|clusters|majority|localization>" in (
        done.stdout.replace("\n", "").replace(" ", "")
    )


if __name__ == "__main__":
    protocols.PROTOCOLS["majority"] = lambda: Protocol(MajoritySettings, run_majority)
    from xdc_tf.cli import evaluate

    evaluate.run()
