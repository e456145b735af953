"""Labels in blocks: loading variables of one and of several devices."""

import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.runtime import arrays

LABELS = np.array([3, -1, 0, 2, 1, 5, 4], np.int32)


@pytest.fixture(autouse=True)
def three_rows_per_block(monkeypatch):
    monkeypatch.setattr(arrays, "BLOCK_ROWS", 3)


@pytest.fixture(params=["array", "map", "int64"])
def labels(request, tmp_path):
    """LABELS in memory, as a read-only map of a file, and in another integer type."""
    if request.param == "map":
        arrays.write_labels(tmp_path / "labels.npy", LABELS)
        return np.load(tmp_path / "labels.npy", mmap_mode="r")
    return LABELS.astype(np.int64 if request.param == "int64" else np.int32)


def new_variable():
    return tf.Variable(np.full(7, -1, np.int32), trainable=False)


def test_blocks_put_together_are_the_labels(labels):
    blocks = list(arrays.blocks(labels))
    assert [len(block) for block in blocks] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(blocks), LABELS)


def test_blocks_of_a_writable_map_keep_what_was_written_to_it(tmp_path):
    arrays.write_labels(tmp_path / "labels.npy", LABELS)
    # Copy on write: what is not in the file would be lost with its page.
    labels = np.load(tmp_path / "labels.npy", mmap_mode="c")
    labels[:] = 9
    for block in arrays.blocks(labels):
        assert set(block) == {9}


def test_a_plain_variable_is_filled(labels):
    variable = new_variable()
    strategy = tf.distribute.get_strategy()
    arrays.fill_variable(variable, labels, strategy=strategy)
    np.testing.assert_array_equal(variable.numpy(), LABELS)


def test_a_function_that_was_traced_before_gathers_the_new_labels(two_devices):
    with two_devices.scope():
        variable = new_variable()

    @tf.function
    def gather(rows):
        return two_devices.run(lambda: tf.gather(variable, rows))

    gather(tf.constant([0, 6]))
    arrays.fill_variable(variable, LABELS, strategy=two_devices)
    for found in two_devices.experimental_local_results(gather(tf.constant([0, 6]))):
        np.testing.assert_array_equal(found, [3, 4])


def test_every_devices_copy_is_filled(labels, two_devices):
    with two_devices.scope():
        variable = new_variable()
    arrays.fill_variable(variable, labels, strategy=two_devices)
    copies = two_devices.experimental_local_results(variable)
    assert len(copies) == 2
    for copy in copies:
        np.testing.assert_array_equal(copy.numpy(), LABELS)


def test_variables_made_of_one_array_are_filled_apart():
    # At a multiple of 64 bytes TensorFlow could take the array for a tensor's memory.
    room = np.full(32, -1, np.int32)
    first = -room.ctypes.data % 64 // room.itemsize
    start = room[first : first + 7]
    one, other = (tf.Variable(start, trainable=False) for _ in range(2))
    arrays.fill_variable(one, LABELS, strategy=tf.distribute.get_strategy())
    np.testing.assert_array_equal(other.numpy(), [-1] * 7)
    np.testing.assert_array_equal(start, [-1] * 7)


def test_labels_of_another_length_are_refused_and_the_variable_is_kept():
    variable = new_variable()
    with pytest.raises(ValueError, match=r"shape \(6,\) .* shape \(7,\)"):
        arrays.fill_variable(
            variable, LABELS[:6], strategy=tf.distribute.get_strategy()
        )
    np.testing.assert_array_equal(variable.numpy(), [-1] * 7)
