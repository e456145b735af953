"""The distribution strategy of this machine."""

import tensorflow as tf


def make_strategy(num_devices: int = 0) -> tf.distribute.Strategy:
    """MirroredStrategy over GPUs, or over logical CPU devices without any.

    Args:
      num_devices: how many; 0 means all that are visible.

    Raises:
      ValueError: if there are fewer.
    """
    gpus = tf.config.list_logical_devices("GPU")
    devices = gpus or tf.config.list_logical_devices("CPU")
    if num_devices > len(devices):
        raise ValueError(
            f"--num_devices={num_devices} exceeds the {len(devices)} visible devices "
            f"({', '.join(device.name for device in devices)})."
        )
    chosen = devices[: num_devices or len(devices)]
    if len(chosen) == 1:
        return tf.distribute.OneDeviceStrategy(chosen[0].name)
    return tf.distribute.MirroredStrategy([device.name for device in chosen])
