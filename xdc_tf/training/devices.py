"""The distribution strategy of this machine, or of several by TF_CONFIG."""

import json
import os

import tensorflow as tf


def make_strategy(
    num_devices: int = 0, *, worker_timeout_secs: float = 0
) -> tf.distribute.Strategy:
    """The strategy of a run.

    If the environment variable TF_CONFIG names several workers,
    MultiWorkerMirroredStrategy over the devices of all of them, which returns when all
    have come. Else MirroredStrategy over GPUs, or over logical CPU devices without any.

    Args:
      num_devices: how many of this machine; 0 means all that are visible. Without a GPU
        the CPU is split into that many logical devices, to try a set-up of several; a
        worker among several has one.
      worker_timeout_secs: how long workers wait for each other where they meet, before
        they fail; 0 for ever.

    Raises:
      ValueError: if there are fewer, or TF_CONFIG cannot be.
    """
    if num_workers_of_environment() > 1:
        return _of_several_machines(num_devices, worker_timeout_secs)
    if num_devices > 1 and not tf.config.list_physical_devices("GPU"):
        cpu = tf.config.list_physical_devices("CPU")[0]
        if tf.config.get_logical_device_configuration(cpu) is None:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * num_devices
            )
    devices = tf.config.list_logical_devices("GPU")
    devices = devices or tf.config.list_logical_devices("CPU")
    if num_devices > len(devices):
        raise _too_many(num_devices, devices)
    chosen = devices[: num_devices or len(devices)]
    if len(chosen) == 1:
        return tf.distribute.OneDeviceStrategy(chosen[0].name)
    return tf.distribute.MirroredStrategy([device.name for device in chosen])


def num_workers_of_environment() -> int:
    """How many workers TF_CONFIG names; 1 without it.

    Raises:
      ValueError: if it is not of a form that pretraining can use.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        return 1
    wanted = (
        'set it to {"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": '
        '"worker", "index": N}}, N from 0, or unset it.'
    )
    try:
        told = json.loads(text)
        addresses = told["cluster"]["worker"]
        kind, index = told["task"]["type"], told["task"]["index"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"TF_CONFIG={text} cannot be read ({error}); {wanted}"
        ) from error
    jobs = sorted(told["cluster"])
    if (
        jobs != ["worker"]
        or kind != "worker"
        or not isinstance(addresses, list)
        or len(set(addresses)) != len(addresses)
        or isinstance(index, bool)
        or index not in range(len(addresses))
    ):
        raise ValueError(
            f"TF_CONFIG={text} must name workers alone, each once, and this one among "
            f"them; {wanted}"
        )
    return len(addresses)


def distribute(
    dataset: tf.data.Dataset, strategy: tf.distribute.Strategy
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """Splits a data set's batches over the devices of one process."""
    if strategy.num_replicas_in_sync == 1 and not tf.config.list_logical_devices("GPU"):
        # Already there; the iterators of distributed ones autotune whatever it says.
        return dataset
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    return strategy.experimental_distribute_dataset(dataset.with_options(options))


def _of_several_machines(num_devices: int, timeout_secs: float):
    gpus = tf.config.list_physical_devices("GPU")
    devices = gpus or tf.config.list_physical_devices("CPU")[:1]
    if num_devices > len(devices):
        raise _too_many(num_devices, devices)
    if gpus and num_devices:
        tf.config.set_visible_devices(gpus[:num_devices], "GPU")
    return tf.distribute.MultiWorkerMirroredStrategy(
        communication_options=tf.distribute.experimental.CommunicationOptions(
            timeout_seconds=timeout_secs or None
        )
    )


def _too_many(num_devices: int, devices) -> ValueError:
    return ValueError(
        f"--num_devices={num_devices} exceeds the {len(devices)} visible devices "
        f"({', '.join(device.name for device in devices)})."
    )
