"""Encoders, steps and batches that the GPU benchmark measures, and profiles of them."""

import contextlib
import glob
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.data import clips
from xdc_tf.distribution import devices
from xdc_tf.features import extraction
from xdc_tf.kmeans import fit_settings
from xdc_tf.models import encoder_table, layers, two_stream
from xdc_tf.models.layers import LayerSettings
from xdc_tf.planning import operations
from xdc_tf.runtime import compat
from xdc_tf.training import configuration, optimizers, supervision, train_step

DEVICE = "/GPU:0" if tf.config.list_physical_devices("GPU") else "/CPU:0"
_NUM_CLASSES = 256
_LEARNING_RATE = 0.01


class Stream(NamedTuple):
    """A modality's encoder and the shape of its clips, channels last."""

    architecture: str
    depth: int
    width: float
    shape: tuple[int, ...]


class Training(NamedTuple):
    """What steps are measured with.

    Attributes:
      train: of train_step.make_train_step.
      extract_clips: of features.make_extract_clips, on folded encoders.
      batch: on the device.
      variables: that a step updates.
      flops: of a forward pass over one clip of all modalities.
      strategy: of the one device.
    """

    train: Callable
    extract_clips: Callable
    batch: dict[str, tf.Tensor]
    variables: list[tf.Variable]
    flops: int
    strategy: tf.distribute.Strategy


def make(
    streams: dict[str, Any],
    batch_size: int,
    precision: str,
    *,
    device: str = DEVICE,
    jit_compile: bool = False,
    compiled_update: bool = False,
    learning_rate: float = _LEARNING_RATE,
) -> Training:
    """A step as pretraining has it: of one modality on labels, of both as XDC.

    Args:
      streams: for each modality a Stream's values.
      batch_size: clips.
      precision: "float32", "tf32", "float16" or "bfloat16".
      device: where it runs.
      jit_compile: the step by XLA.
      compiled_update: the update of the weights by XLA.
      learning_rate: of SGD with momentum.
    """
    settings = {modality: Stream(*values) for modality, values in streams.items()}
    method = supervision.METHODS["xdc"]
    if len(settings) == 1:
        (modality,) = settings
        method = supervision.Method(
            {modality: modality}, {modality: (supervision.TRUE_LABELS,)}
        )
    strategy = tf.distribute.OneDeviceStrategy(device)
    policy = "float32" if precision in ("float32", "tf32") else f"mixed_{precision}"
    with strategy.scope():
        model = two_stream.build(
            method.streams,
            architectures={
                modality: encoder_table.ResNetSettings(*encoder_form[:3])
                for modality, encoder_form in settings.items()
            },
            clip=configuration.clip(configuration.Config(), None),
            layers=LayerSettings(dtype=policy, weight_decay=1e-4, fast=True),
            heads={
                supervision.head_name(stream, source): two_stream.HeadSettings(
                    stream, _NUM_CLASSES
                )
                for stream, sources in method.supervision.items()
                for source in sources
            },
        )
        optimizer = optimizers.make(
            "sgd",
            model.trainable_variables,
            momentum=0.9,
            weight_decay=1e-4,
            scale_loss=precision == "float16",
        )
        labels = np.arange(batch_size, dtype=np.int32) % _NUM_CLASSES
        tables = {
            source: tf.Variable(labels, trainable=False)
            for source in supervision.label_sources(method)
        }
        folded = {
            stream: layers.fold(encoder) for stream, encoder in model.encoders.items()
        }
    compat.set_learning_rate(optimizer, learning_rate)
    train = train_step.make_train_step(
        model,
        method,
        tables,
        optimizer,
        strategy=strategy,
        settings=train_step.StepSettings(
            batch_size, jit_compile=jit_compile, compiled_update=compiled_update
        ),
    )
    batch = make_batch(settings, batch_size)
    with tf.device(device):
        batch = {name: tf.identity(value) for name, value in batch.items()}
    return Training(
        train,
        extraction.make_extract_clips(folded, method.streams, strategy=strategy),
        batch,
        model.trainable_variables,
        sum(
            operations.count(model.encoders[stream], settings[modality].shape).flops
            for stream, modality in method.streams.items()
        ),
        strategy,
    )


def make_batch(settings: dict[str, Stream], batch_size: int) -> dict[str, np.ndarray]:
    """Random clips as data.pipeline yields them: frames are bytes."""
    rng = np.random.default_rng(0)
    batch = {"example_index": np.arange(batch_size)}
    for modality, encoder_form in settings.items():
        shape = (batch_size, *encoder_form.shape)
        if modality == "video":
            batch[modality] = rng.integers(0, 256, shape, np.uint8)
            scale = np.float32([[1 / 58] * 3, [-127 / 58] * 3])
            batch[clips.VIDEO_NORMALIZATION] = np.stack([scale] * batch_size)
        else:
            batch[modality] = rng.standard_normal(shape, np.float32)
    return batch


def from_host(training: Training):
    """The batch again and again, on its way to the device as those of records are."""
    batch = {name: value.numpy() for name, value in training.batch.items()}
    dataset = tf.data.Dataset.from_tensors(batch).repeat().prefetch(2)
    return devices.distribute(dataset, training.strategy)


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Float32 products and convolutions with or without TF32."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(allowed)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


@contextlib.contextmanager
def blocks(scores: int) -> Iterator[None]:
    """Fits on GPUs with so many scores in a block; 0: the usual number."""
    before = fit_settings.MOST_BLOCK_ROWS_ON_GPU, fit_settings.BLOCK_SCORES_ON_GPU
    if scores:
        fit_settings.MOST_BLOCK_ROWS_ON_GPU = 1 << 22
        fit_settings.BLOCK_SCORES_ON_GPU = scores
    try:
        yield
    finally:
        fit_settings.MOST_BLOCK_ROWS_ON_GPU, fit_settings.BLOCK_SCORES_ON_GPU = before


def read_profile(log_dir: str, steps: int) -> dict[str, Any]:
    """How the GPU spent the steps of a profile; without a GPU, that there was none.

    Returns:
      "idle_share" of the time between the first kernel and the last, in which no stream
      had any; copies of a step to the device and from it, by number and MB; the kernels
      that took longest, with their fraction of the busy time.
    """
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    (path,) = glob.glob(os.path.join(log_dir, "plugins/profile/*/*.xplane.pb"))
    space = xplane_pb2.XSpace()
    with open(path, "rb") as file:
        space.ParseFromString(file.read())
    planes = [plane for plane in space.planes if plane.name.startswith("/device:GPU")]
    if not planes:
        return {"planes": [plane.name for plane in space.planes]}
    (plane,) = planes[:1]
    spans, secs, copies = [], {}, {}
    for line in plane.lines:
        if not line.name.startswith("Stream"):
            continue
        for event in line.events:
            start = 1000 * line.timestamp_ns + event.offset_ps
            name = plane.event_metadata[event.metadata_id].name
            spans.append((start, start + event.duration_ps))
            secs[name] = secs.get(name, 0) + event.duration_ps * 1e-12
            kind = next((k for k in ("HtoD", "H2D", "DtoH", "D2H") if k in name), None)
            if kind:
                kind = "to_device" if kind[0] == "H" else "from_device"
                number, megabytes = copies.get(kind, (0, 0.0))
                copies[kind] = number + 1, megabytes + _copied_bytes(plane, event) / 1e6
    return {
        "idle_share": idle_share(spans),
        "copies_per_step": {
            kind: {"number": number / steps, "mb": megabytes / steps}
            for kind, (number, megabytes) in copies.items()
        },
        "longest": {
            name[:80]: round(spent / sum(secs.values()), 4)
            for name, spent in sorted(secs.items(), key=lambda entry: -entry[1])[:15]
        },
    }


def idle_share(spans: list[tuple[int, int]]) -> float:
    """The part of the time from the first start to the last end that no span covers."""
    spans = sorted(spans)
    covered, end = 0, spans[0][0]
    for start, stop in spans:
        covered += max(0, stop - max(start, end))
        end = max(end, stop)
    return 1 - covered / max(1, end - spans[0][0])


def _copied_bytes(plane, event) -> int:
    for stat in event.stats:
        if "memcpy_details" in plane.stat_metadata[stat.metadata_id].name:
            text = stat.str_value or plane.stat_metadata[stat.ref_value].name
            for part in text.split():
                if part.startswith("size:"):
                    return int(part[len("size:") :])
    return 0
