"""The table of devices, and measuring this machine."""

import pytest

from xdc_tf.planning import device_table

pytestmark = pytest.mark.once


def test_an_unknown_device_lists_the_known_ones():
    with pytest.raises(ValueError, match="h300 is unknown.* a100.* h100.* v100.* this"):
        device_table.find("h300")


def test_a_type_without_fast_products_names_the_key_to_change():
    with pytest.raises(ValueError, match="v100 .* bfloat16.*change config.precision"):
        device_table.matmul_flops(
            device_table.find("v100"), "bfloat16", key="precision"
        )


@pytest.mark.parametrize("name", device_table.DEVICES)
def test_sixteen_bits_are_at_least_as_fast_as_float32(name):
    flops = device_table.DEVICES[name].product_flops
    assert min(flops.values()) == flops["float32"] > 1e12


def test_this_machine_has_float32_products_and_memory(monkeypatch):
    monkeypatch.setattr(device_table, "_MATRIX_SIDE", 64)
    monkeypatch.setattr(device_table, "_PROBE_SIDE", 32)
    monkeypatch.setattr(device_table, "_COPIED_NUMBERS", 1 << 10)
    device = device_table.find(device_table.THIS)
    assert device.product_flops["float32"] > 0
    assert device.bytes_per_sec > 0
    assert device.memory_bytes > 2**20
