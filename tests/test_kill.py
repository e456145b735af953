"""Runs killed by SIGKILL: benchmarks/kill.py, in short."""

import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def test_a_run_killed_while_saving_ends_with_the_same_bits(
    tiny_records,
):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.kill", "--times=1"),
            *("--phases=saving", f"--records={tiny_records / 'train'}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 the same, bit for bit" in done.stdout
