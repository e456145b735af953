import pytest

from xdc_tf.training import devices


def test_one_device_needs_no_mirroring():
    assert devices.make_strategy(1).num_replicas_in_sync == 1


def test_all_visible_devices_are_taken_by_default():
    assert devices.make_strategy().num_replicas_in_sync == 2


def test_more_devices_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="num_devices=3 exceeds the 2 visible"):
        devices.make_strategy(3)
