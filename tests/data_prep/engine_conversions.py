"""Conversions by commands, and what kills workers, for the tests of engines."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

from media_files import tone, write_media

from benchmarks import engine_processes

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def write_videos(folder):
    """A manifest of four rows, of which one has no file."""
    for number in range(3):
        secs = 1.0 + number
        write_media(folder / f"{number}.mp4", secs=secs, waveform=tone(secs))
    path = folder / "manifest.csv"
    path.write_text("path,label\n0.mp4,a\nnone.mp4,b\n1.mp4,b\n2.mp4,\n")
    return path


def convert(manifest, out, *flags, cwd=ROOT):
    return subprocess.run(
        [
            *(sys.executable, "-m", "data_prep.convert", f"--manifest={manifest}"),
            *(f"--out={out}", "--fps=10", "--short_side=48", "--rows_per_shard=2"),
            *flags,
        ],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        check=False,
    )


def check_same(one, other):
    assert sorted(os.listdir(one)) == sorted(os.listdir(other))
    for name in os.listdir(one):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@contextlib.contextmanager
def killing_readers(path, worker_pids):
    """Kills each worker below which a process opens a file; gives how many so far."""
    killed = []
    ended = threading.Event()

    def watch():
        while not ended.is_set():
            for worker in worker_pids():
                below = engine_processes.descendants(worker)
                if any(engine_processes.has_open(pid, str(path)) for pid in below):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker, signal.SIGKILL)
                        killed.append(worker)
            time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def check_poisoned_file(folder, make_flags, worker_pids):
    """One file kills every worker that opens it; the others are as converted here."""
    for number in range(3):
        write_media(folder / f"{number}.mp4", waveform=tone(1.0, hz=200 + number))
    (folder / "poison.mp4").write_text("not a video")
    manifest = folder / "manifest.csv"
    manifest.write_text("path\n0.mp4\npoison.mp4\n1.mp4\n2.mp4\n")
    here, there = folder / "here", folder / "there"
    done = convert(manifest, here)
    assert done.returncode == 0, done.stderr
    # So long that its decoding is seen.
    write_media(folder / "poison.mp4", secs=30.0, waveform=tone(30.0))
    with killing_readers(folder / "poison.mp4", worker_pids) as killed:
        done = convert(manifest, there, *make_flags())
    assert done.returncode == 0, done.stderr
    assert "1 quarantined (1 killed)" in done.stdout
    # Once beside others, twice alone.
    assert len(set(killed)) == 3
    quarantine = (there / "quarantine.csv").read_text()
    assert "its worker was lost 2 times while this row was decoded alone" in quarantine
    for name in os.listdir(here):
        if name.startswith("records-") or name == "examples.csv":
            assert (here / name).read_bytes() == (there / name).read_bytes(), name
    # For the next call, which tries it again.
    assert (there / "progress").is_dir()
    assert convert(manifest, there).returncode == 0
    assert (there / "quarantine.csv").read_text().count("\n") == 1
