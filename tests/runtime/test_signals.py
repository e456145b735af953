"""What becomes of a process that is sent signals, each in a process of its own."""

import os
import subprocess
import sys
import textwrap

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPT = """
import hashlib, os, signal, sys, threading, time
from xdc_tf.runtime import program, signals
signals.GRACE_SECS = 0.2
def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
def compiled_loop():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes, no Python in it
def wait_until(condition):
    while not condition():
        time.sleep(0.001)
def main(argv):
    with signals.listening() as stop:
{body}
program.run(main)
"""
COMMAND = """
import os, signal, time
from xdc_tf.runtime import files, program
def main(argv):
    with files.new_directory(argv[1]) as directory:
        open(directory + "/half", "w").close()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
program.run(main, takes_arguments=True)
"""


@pytest.fixture
def run(tmp_path):
    def run(body):
        script = tmp_path / "script.py"
        script.write_text(SCRIPT.format(body=textwrap.indent(body, " " * 8)))
        return subprocess.run(
            [sys.executable, str(script)],
            env={**os.environ, "PYTHONPATH": ROOT},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return run


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_ends_the_process_with_75_and_one_line(run, name):
    done = run(f"send(signal.{name})\ntime.sleep(60)\n")
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr == f"error: stopped by {name}; the same command goes on\n"


def test_what_must_be_done_on_leaving_is_done(run):
    done = run("try:\n    send()\n    time.sleep(60)\nfinally:\n    print('kept')\n")
    assert (done.returncode, done.stdout) == (75, "kept\n")


def test_a_deferred_signal_waits_for_the_work(run):
    body = """\
with stop.deferred():
    send()
    wait_until(lambda: stop.requested)
    time.sleep(0.5)
    print("saved")
print("not reached")
"""
    done = run(body)
    assert (done.returncode, done.stdout) == (75, "saved\n")
    assert done.stderr.startswith("SIGTERM: saving after this step")


def test_a_second_signal_ends_deferred_work_at_once(run):
    body = """\
with stop.deferred():
    send()
    wait_until(lambda: stop.requested)
    send()
    compiled_loop()
"""
    assert run(body).returncode == 75


def test_a_compiled_loop_is_ended_after_a_time(run):
    done = run("threading.Timer(0.2, send).start()\ncompiled_loop()\n")
    assert done.returncode == 75


def test_without_a_signal_nothing_changes(run):
    done = run("with stop.deferred():\n    stop.check()\nprint('done')\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_every_command_cleans_up_and_ends_with_75(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(COMMAND)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "made")],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 75
    assert done.stderr == "error: stopped by SIGTERM; the same command goes on\n"
    assert os.listdir(tmp_path) == ["script.py"]
