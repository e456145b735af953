"""Attempts to make a shard, of which some were lost."""

import json
import os
import socket
import threading

import pytest
from engine_conversions import check_same, write_videos

from data_prep import conversion, shards
from data_prep.conversion_settings import ConversionSettings
from data_prep.engines import attempts, worker_checks
from data_prep.engines.worker_checks import WorkerError
from data_prep.reasons import KILLED
from data_prep.worker_processes import PoolSettings
from xdc_tf.data import example_tables

pytestmark = pytest.mark.once

SETTINGS = ConversionSettings(fps=10.0, short_side=48)


class ByAttempts:
    """An engine of this process, which makes and places one attempt for each shard."""

    def __init__(self, before=lambda out_dir, shard: None, after=None):
        self.before, self.after = before, after or before

    def convert_shards(self, shards, out_dir, *, on_rows, **arguments):
        origin = attempts.make_origin(out_dir, shards)
        for shard in shards:
            self.before(out_dir, shard)
            attempts.make(shard, out_dir, origin=origin, **arguments)
            self.after(out_dir, shard)
            report = attempts.place(out_dir, shard)
            on_rows(len(report.examples), len(report.refused))


def convert(manifest, out, **options):
    conversion.convert_manifest(
        str(manifest),
        str(out),
        settings=SETTINGS,
        pool=PoolSettings(1),
        rows_per_shard=2,
        **options,
    )


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def here(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("here") / "records"
    convert(manifest, out)
    return out


def lost_attempt(out_dir, shard, name, note=None):
    path = os.path.join(out_dir, "progress", f"{shard.file}.attempts", name)
    os.makedirs(path, exist_ok=True)
    if note:
        with open(os.path.join(path, "in_work.json"), "w") as file:
            json.dump({"example_index": note[0], "host": note[1]}, file)


def test_attempts_write_the_same_bytes(manifest, here, tmp_path):
    convert(manifest, tmp_path / "out", engine=ByAttempts())
    check_same(here, tmp_path / "out")


def test_after_a_lost_attempt_the_bytes_are_the_same(manifest, here, tmp_path):
    notes = []

    def lose(out_dir, shard):
        lost_attempt(out_dir, shard, "a", (shard.rows[0].example_index, "node1"))
        lost_attempt(out_dir, shard, "b", (shard.rows[1].example_index, "node2"))

    def read_note(out_dir, shard):
        parent = os.path.join(out_dir, "progress", f"{shard.file}.attempts")
        (name,) = set(os.listdir(parent)) - {"a", "b"}
        with open(os.path.join(parent, name, "in_work.json")) as file:
            notes.append(json.load(file))

    convert(manifest, tmp_path / "out", engine=ByAttempts(lose, read_note))
    check_same(here, tmp_path / "out")
    # The last row of each shard, with nothing in work after it.
    host = socket.gethostname()
    assert notes == [{"example_index": index, "host": host} for index in (1, 3)]


def test_a_row_that_two_attempts_were_lost_with_is_quarantined(manifest, tmp_path):
    def lose(out_dir, shard):
        for name, host in (("a", "node1"), ("b", "node2")):
            if shard.number == 1:
                lost_attempt(out_dir, shard, name, (2, host))

    out = tmp_path / "out"
    convert(manifest, out, engine=ByAttempts(lose))
    refused = example_tables.read_refused(str(out))
    assert [(row.path, row.reason) for row in refused][1] == ("1.mp4", KILLED)
    assert refused[1].detail == (
        "its worker was lost 2 times while this row was decoded alone, the last time "
        "on node2"
    )
    examples = example_tables.read_examples(str(out))
    assert list(examples.example_indices) == [0, 3]


def test_what_an_attempt_made_that_nobody_waited_for_is_taken(manifest, here, tmp_path):
    class Interrupted(Exception):
        pass

    def interrupt(out_dir, shard):
        if shard.number == 1:
            raise Interrupted

    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        convert(manifest, out, engine=ByAttempts(after=interrupt))
    assert not (out / "records-00001-of-00002.tfrecord").exists()

    def never(out_dir, shard):
        raise AssertionError(f"{shard.file} is made already")

    convert(manifest, out, engine=ByAttempts(never))
    check_same(here, out)


def test_an_attempt_that_did_not_see_media_which_are_there_is_not_taken(
    manifest, tmp_path
):
    def hide(out_dir, shard):
        if shard.number == 0:
            os.rename(manifest.parent / "0.mp4", manifest.parent / "hidden")

    def show(out_dir, shard):
        if shard.number == 0:
            os.rename(manifest.parent / "hidden", manifest.parent / "0.mp4")

    class Late(ByAttempts):
        """Its check of the first file came before the worker lost its mount."""

        def convert_shards(self, shards, out_dir, **arguments):
            make_origin = attempts.make_origin
            origin = make_origin(out_dir, shards)._replace(seen=())
            for shard in shards:
                hide(out_dir, shard)
                arguments.pop("on_rows", None)
                attempts.make(shard, out_dir, origin=origin, **arguments)
                show(out_dir, shard)
                attempts.place(out_dir, shard)

    with pytest.raises(WorkerError, match=r"cannot read .*/0.mp4; mount the media"):
        convert(manifest, tmp_path / "out", engine=Late())
    progress = tmp_path / "out" / "progress"
    assert not list(progress.glob("*.attempts/*"))


def test_what_another_machine_made_may_be_seen_late(manifest, here, tmp_path):
    class Late(ByAttempts):
        def convert_shards(self, shards, out_dir, *, on_rows, **arguments):
            origin = attempts.make_origin(out_dir, shards)
            for shard in shards:
                attempts.make(shard, out_dir, origin=origin, **arguments)
            parent = os.path.join(out_dir, "progress", f"{shard.file}.attempts")
            os.rename(parent, parent + ".unseen")
            timer = threading.Timer(0.7, os.rename, (parent + ".unseen", parent))
            timer.start()
            placed = attempts.place_all(out_dir, shards)
            assert [shard.number for shard, _ in placed] == [0, 1]
            timer.join()

    convert(manifest, tmp_path / "out", engine=Late())
    check_same(here, tmp_path / "out")


def test_an_attempt_that_fails_does_not_count_as_lost(manifest, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device", "records")

    monkeypatch.setattr(shards, "convert_shards", fail)
    lost = []
    engine = ByAttempts()
    with pytest.raises(OSError, match=f"No space left.*, on {socket.gethostname()}"):
        convert(manifest, tmp_path / "out", engine=engine)
    progress = tmp_path / "out" / "progress"
    lost = list(progress.glob("*.attempts/*"))
    assert lost == []


def test_a_worker_is_of_the_same_software_and_files(tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text("{}")
    origin = worker_checks.Origin(
        worker_checks.software(),
        {str(plan): worker_checks.sha256(str(plan))},
        [str(plan)],
    )
    worker_checks.check_worker(origin)
    host = socket.gethostname()
    other = origin._replace(software=origin.software | {"numpy": "0.1"})
    with pytest.raises(WorkerError, match=rf"on {host} has other software .numpy"):
        worker_checks.check_worker(other)
    plan.write_text("{ }")
    with pytest.raises(WorkerError, match="sees another file of that name"):
        worker_checks.check_worker(origin)
    unseen = origin._replace(digests={}, seen=[str(tmp_path / "none.mp4")])
    with pytest.raises(WorkerError, match="none.mp4; mount the media"):
        worker_checks.check_worker(unseen)
