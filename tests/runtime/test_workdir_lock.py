import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from xdc_tf.runtime import workdir as work

pytestmark = pytest.mark.once

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HOLD = """
import sys, time
from xdc_tf.runtime import workdir
lock = workdir.lock(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""


def test_a_second_run_is_refused_with_the_first_ones_host_and_process(tmp_path):
    with work.lock(str(tmp_path)):
        told = f"{tmp_path} is in use by process {os.getpid()} on {os.uname().nodename}"
        with pytest.raises(BlockingIOError, match=told):
            work.lock(str(tmp_path))


def test_a_lock_goes_with_its_process(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError, match=f"process {holder.pid}"):
        work.lock(str(tmp_path))
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    work.lock(str(tmp_path)).release()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def no_locks(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    work.lock(str(tmp_path)).release()
    told = capsys.readouterr().err
    assert "No locks available" in told and "see to it yourself" in told
