import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.data import dataset_info, example_tables
from xdc_tf.distribution import workers

ONE_DEVICE = tf.distribute.OneDeviceStrategy("/CPU:0")


def test_files_are_dealt_by_their_examples_the_largest_first():
    assert workers.deal([5, 9, 4, 2, 3], 2) == [[1, 4], [0, 2, 3]]


def test_no_worker_goes_without_a_file_even_if_all_are_empty():
    assert workers.deal([0, 0, 0], 3) == [[0], [1], [2]]


def test_one_process_has_all_files_and_all_rows_of_the_manifest(tiny_records):
    directory = str(tiny_records / "train")
    info = dataset_info.read_dataset_info(directory)
    local = workers.local_data(
        info, example_tables.read_examples(directory), ONE_DEVICE
    )
    assert (local.number, local.num_processes) == (0, 1)
    assert local.files == tuple(shard.file for shard in info.shards)
    np.testing.assert_array_equal(local.rows, np.arange(info.num_rows))


@pytest.fixture
def second_of_two(monkeypatch):
    monkeypatch.setattr(workers, "place", lambda strategy: (1, 2))


def test_a_worker_has_whole_files_and_the_rows_of_their_examples(
    tiny_records, second_of_two
):
    directory = str(tiny_records / "train")
    info = dataset_info.read_dataset_info(directory)
    examples = example_tables.read_examples(directory)
    local = workers.local_data(info, examples, ONE_DEVICE)
    # Three files of eight examples: the first and the third to worker 0.
    assert local.files == (info.shards[1].file,)
    np.testing.assert_array_equal(local.rows, np.arange(8, 16))


def test_fewer_files_than_workers_is_an_error(tiny_records, monkeypatch):
    monkeypatch.setattr(workers, "place", lambda strategy: (0, 4))
    directory = str(tiny_records / "train")
    info = dataset_info.read_dataset_info(directory)
    with pytest.raises(ValueError, match="3 files for 4 workers.*rows_per_shard"):
        workers.local_data(info, example_tables.read_examples(directory), ONE_DEVICE)


def test_labels_of_own_rows_are_put_among_those_of_others(second_of_two, monkeypatch):
    monkeypatch.setattr(workers, "_EXCHANGED_ROWS", 4)
    others = np.array([7, 0, 0, 0, 2, 0, 0, 0], np.int32) + 1
    others[[1, 2, 3, 5, 6, 7]] = 0
    starts = iter([0, 4])

    def add(strategy, part):
        start = next(starts)
        return part + others[start : start + 4]

    monkeypatch.setattr(workers.rows, "sum_over_processes", add)
    local = workers.LocalData(1, 2, ("a",), np.array([1, 2, 6]))
    labels = workers.labels_of_all(ONE_DEVICE, local, np.array([5, -1, 0], np.int32), 8)
    assert labels.dtype == np.int32
    assert labels.tolist() == [7, 5, -1, -1, 2, -1, 0, -1]


def test_positions_that_differ_name_the_worker(monkeypatch):
    every = np.array([[1, 0, 8], [1, 0, 8], [0, 0, 0]])
    monkeypatch.setattr(workers, "gathered", lambda strategy, value: every)
    with pytest.raises(ValueError, match=r"Worker 2 found steps \[0, 0, 0\] .*workdir"):
        workers.check_same(ONE_DEVICE, every[0], "steps")
