"""The distribution strategy of this machine."""

import tensorflow as tf


def make_strategy(num_devices: int = 0) -> tf.distribute.Strategy:
    """MirroredStrategy over GPUs, or over logical CPU devices without any.

    Args:
      num_devices: how many; 0 means all that are visible. Without a GPU the CPU is
        split into that many logical devices, to try a set-up of several.

    Raises:
      ValueError: if there are fewer.
    """
    if num_devices > 1 and not tf.config.list_physical_devices("GPU"):
        cpu = tf.config.list_physical_devices("CPU")[0]
        if tf.config.get_logical_device_configuration(cpu) is None:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * num_devices
            )
    devices = tf.config.list_logical_devices("GPU")
    devices = devices or tf.config.list_logical_devices("CPU")
    if num_devices > len(devices):
        raise ValueError(
            f"--num_devices={num_devices} exceeds the {len(devices)} visible devices "
            f"({', '.join(device.name for device in devices)})."
        )
    chosen = devices[: num_devices or len(devices)]
    if len(chosen) == 1:
        return tf.distribute.OneDeviceStrategy(chosen[0].name)
    return tf.distribute.MirroredStrategy([device.name for device in chosen])
