"""The distribution strategy of this machine, or of several by TF_CONFIG."""

import contextlib
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

WAITING_SECS = 30.0  # between lines that say what is waited for
_ADDRESS = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})")


def make_strategy(
    num_devices: int = 0, *, worker_timeout_secs: float = 0
) -> tf.distribute.Strategy:
    """Builds the distribution strategy of a run.

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
      ValueError: if there are fewer devices, or TF_CONFIG is malformed.
      OSError: if this worker's port is in use, or the others do not come in time.
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
    """Number of workers that TF_CONFIG names; 1 without it.

    Raises:
      ValueError: if it is not of a form that pretraining can use.
    """
    return len(_workers_of_environment()[0])


def _workers_of_environment() -> tuple[list[str], int]:
    """Addresses of the workers in TF_CONFIG and the number of this one among them."""
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        return [""], 0
    remedy = (
        'set it to {"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": '
        '"worker", "index": N}}, N from 0, or unset it.'
    )
    try:
        settings = json.loads(text)
        addresses = settings["cluster"]["worker"]
        kind, index = settings["task"]["type"], settings["task"]["index"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"TF_CONFIG={text} cannot be read ({error}); {remedy}"
        ) from error
    jobs = sorted(settings["cluster"])
    if (
        jobs != ["worker"]
        or kind != "worker"
        or not isinstance(addresses, list)
        or not all(map(_is_address, addresses))
        or len(set(addresses)) != len(addresses)
        or not isinstance(index, int)
        or isinstance(index, bool)
        or index not in range(len(addresses))
    ):
        raise ValueError(
            f"TF_CONFIG={text} must name workers alone, each once with its port, and "
            f"this one among them; {remedy}"
        )
    return addresses, index


def _is_address(value: Any) -> bool:
    """Whether a value is HOST:PORT; an IPv6 host stands in brackets."""
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    return match is not None and 1 <= int(match[2]) <= 65535


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
    addresses, index = _workers_of_environment()
    _check_port_is_free(addresses[index])
    others = [address for address in addresses if address != addresses[index]]
    with _saying_that_it_waits(f"waiting for the workers {', '.join(others)}"):
        try:
            return tf.distribute.MultiWorkerMirroredStrategy(
                communication_options=tf.distribute.experimental.CommunicationOptions(
                    timeout_seconds=timeout_secs or None
                )
            )
        except tf.errors.OpError as error:
            raise OSError(
                f"worker {addresses[index]} has not met the workers "
                f"{', '.join(others)} ({error.message.splitlines()[0]}); start all of "
                "them, with the same list in TF_CONFIG and ports that they can reach."
            ) from error


def _check_port_is_free(address: str) -> None:
    port = int(address.rpartition(":")[2])
    # TensorFlow's server would share the port with another one of its kind.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise OSError(
                f"this worker's port in TF_CONFIG, {address}, cannot be used here "
                f"({error.strerror}); end what uses it, or give another port."
            ) from error


@contextlib.contextmanager
def _saying_that_it_waits(message: str) -> Iterator[None]:
    """Prints a line every half minute until the block ends."""
    done = threading.Event()

    def say():
        secs = 0.0
        while not done.wait(WAITING_SECS):
            secs += WAITING_SECS
            print(f"{message}, for {secs:g} s", file=sys.stderr, flush=True)

    thread = threading.Thread(target=say, daemon=True, name="waiting")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _too_many(num_devices: int, devices) -> ValueError:
    return ValueError(
        f"--num_devices={num_devices} exceeds the {len(devices)} visible devices "
        f"({', '.join(device.name for device in devices)})."
    )
