"""Settings on all kinds of videos, and the choice that advise makes among them."""

import numpy as np
import pytest

from benchmarks import settings_by_kind
from xdc_tf.evaluation import report_collections, reports
from xdc_tf.evaluation.reports import SplitResult

pytestmark = pytest.mark.once

ROWS = ("xdc, as configured", "xdc, few", "xdc, many")


def _report(row, kind, seed, *, video, audio, retrieval):
    streams = {"video": video, "audio": audio}
    report = reports.make_report(
        "linear",
        [[SplitResult(stream, {"top1": x}, {}) for stream, x in streams.items()]],
        split_names=["1"],
        source={"video": {"kind": "pretrained", "method": "xdc", "seed": seed}},
        settings={"kind": kind, "row": row},
        config={},
        records={},
    )
    rounds = {
        "retrieval_of_audio_by_video": retrieval,
        "stability_of_audio": [None] * 9,
    }
    return report | {"rounds": rounds}


@pytest.fixture
def paths(tmp_path):
    """Few clusters are ahead on digits, many on shapes; retrieval says so of digits."""
    written = []
    for kind, best in (("digits", "xdc, few"), ("shapes", "xdc, many")):
        of_kind = {}
        for seed in range(2):
            for row in ROWS:
                ahead = 0.2 if row == best else 0.0
                leads = row == "xdc, few"
                of_kind[f"{row}-{seed}.json"] = _report(
                    row,
                    kind,
                    seed,
                    video=0.5 + ahead + 0.01 * seed,
                    audio=0.6 + ahead,
                    retrieval=[0.0] + [0.1 + 0.3 * leads] * 8,
                )
        written.append(str(tmp_path / f"{kind}.json"))
        report_collections.write(written[-1], of_kind)
    return written


def test_settings_are_compared_pair_by_pair(paths):
    results = settings_by_kind.read(paths)
    table = settings_by_kind.settings_table(results, ROWS[0])
    header, _, configured, few, _ = table.splitlines()
    assert header == "|  | digits | shapes | difference from as configured |"
    assert configured.startswith(
        "| as configured | 50.5 / 60.0 (2) | 50.5 / 60.0 (2) |"
    )
    assert few.startswith(
        "| few | 70.5 / 80.0 (2) | 50.5 / 60.0 (2) | +10.0 / +10.0 ± "
    )
    error = np.std([20, 20, 0, 0], ddof=1) / 2
    assert few.endswith(f"± {error:.1f} / {error:.1f} (4) |")


def test_the_choice_by_retrieval_is_next_to_the_best(paths):
    results = settings_by_kind.read(paths)
    table = settings_by_kind.advice_table(results, ROWS)
    assert "| digits | 1 | few | 71.0 / 80.0 | 71.0 / 80.0 | yes |" in table
    assert "| shapes | 0 | few | 50.0 / 60.0 | 70.0 / 80.0 | no |" in table
    alone = "Always the same row: as configured 0, few 2, many 2."
    assert table.endswith(f"in both: 2 of 4. {alone}")


def test_a_trial_that_is_behind_when_it_is_left_is_not_chosen():
    late, early = [0.0] * 3 + [0.9] * 7, [0.0] + [0.2] * 9
    rest = {"c": [0.0] + [0.1] * 9, "d": [0.0] * 10}
    assert settings_by_kind.choose({"late": late, "early": early, **rest}) == "early"


def test_the_same_run_twice_is_refused(paths):
    with pytest.raises(ValueError, match="another report of .* digits, seed 0"):
        settings_by_kind.read([paths[0], paths[0]])
