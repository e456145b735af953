"""The table of convolutions' forms."""

import pytest
from forked_commands import run_command

pytestmark = [pytest.mark.once, pytest.mark.slow]


def test_each_form_of_each_convolution_is_timed_and_added_up():
    done = run_command(
        "benchmarks.convolutions",
        *("--types=float32", "--width=0.125", "--crop_size=16", "--batch_size=1"),
        "--repeats=1",
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if "|" in line]
    _, _, *layers, total = rows
    assert len(layers) == 16 and sum(int(row[1]) for row in layers) == 34
    for place in range(2, 11):
        added = sum(int(row[1]) * float(row[place]) for row in layers)
        # Each is printed with a digit, and their sum without.
        assert float(total[place]) == pytest.approx(added, abs=0.05 * 34 + 0.51)
