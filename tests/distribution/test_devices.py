import json
import socket
import sys
import threading

import pytest
import tensorflow as tf

from xdc_tf.distribution import devices


def test_one_device_needs_no_mirroring():
    assert devices.make_strategy(1).num_replicas_in_sync == 1


def test_all_visible_devices_are_taken_by_default():
    assert devices.make_strategy().num_replicas_in_sync == 2


def test_more_devices_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="num_devices=3 exceeds the 2 visible"):
        devices.make_strategy(3)


def tf_config(workers, *, index=0, kind="worker", **jobs):
    cluster = {"worker": workers} | jobs
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


def test_tf_config_counts_the_workers(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert devices.num_workers_of_environment() == 1
    monkeypatch.setenv("TF_CONFIG", tf_config(["a:1", "b:1", "c:1"], index=2))
    assert devices.num_workers_of_environment() == 3


def test_a_single_worker_is_a_machine_of_its_own(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", tf_config(["localhost:1"]))
    assert devices.make_strategy(1).num_replicas_in_sync == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("worker", "cannot be read"),
        ('{"cluster": {"worker": ["a:1"]}}', "cannot be read \\('task'\\)"),
        (tf_config(["a:1", "b:1"], index=2), "this one among them"),
        (tf_config(["a:1", "a:1"]), "each once"),
        (tf_config(["a", "b"]), "each once with its port"),
        (tf_config(["a:1", "b:99999"]), "each once with its port"),
        (tf_config(["http://a:1", "b:1"]), "each once with its port"),
        (tf_config([1, 2]), "each once with its port"),
        (tf_config([{"a": 1}, {"b": 1}]), "each once with its port"),
        (tf_config({"0": "a:1", "1": "b:1"}), "each once with its port"),
        (tf_config(["a:1", "b:1"], index="0"), "this one among them"),
        ("[" * 100_000, "cannot be read"),
        (tf_config(["a:1", "b:1"], ps=["c:1"]), "workers alone"),
        (tf_config(["a:1", "b:1"], kind="evaluator"), "workers alone"),
    ],
)
def test_a_tf_config_that_cannot_be_is_shown_with_one_that_can(text, told, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match=f"TF_CONFIG=.*{told}.*HOST:PORT"):
        devices.make_strategy()


def test_a_port_in_use_is_named(monkeypatch):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        address = f"localhost:{other.getsockname()[1]}"
        monkeypatch.setenv("TF_CONFIG", tf_config([address, "b:1"]))
        with pytest.raises(OSError, match=f"port in TF_CONFIG, {address}, .* in use"):
            devices.make_strategy()


def test_a_worker_that_waits_says_for_whom(monkeypatch, capsys):
    waiting = threading.Event()
    monkeypatch.setattr(devices, "WAITING_SECS", 0.01)

    class Partnerless:
        def __init__(self, communication_options):
            assert waiting.wait(30)
            raise tf.errors.DeadlineExceededError(None, None, "nobody came\nat all")

    def note(*arguments, **options):
        sys.stdout.write(str(arguments[0]) + "\n")
        waiting.set()

    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", Partnerless)
    monkeypatch.setattr(devices, "print", note, raising=False)
    monkeypatch.setenv("TF_CONFIG", tf_config(["localhost:47391", "b:1", "[::1]:2"]))
    with pytest.raises(OSError, match=r"b:1, \[::1\]:2 \(nobody came\); start all"):
        devices.make_strategy()
    assert "waiting for the workers b:1, [::1]:2, for 0.01 s" in capsys.readouterr().out


def test_batches_are_split_over_devices_and_one_has_them_whole(two_devices):
    batches = tf.data.Dataset.range(4).batch(4)
    (whole,) = devices.distribute(batches, tf.distribute.OneDeviceStrategy("/CPU:0"))
    assert whole.numpy().tolist() == [0, 1, 2, 3]
    (split,) = devices.distribute(batches, two_devices)
    halves = two_devices.experimental_local_results(split)
    assert [half.numpy().tolist() for half in halves] == [[0, 1], [2, 3]]
