"""Training steps and extraction next to PyTorch.

    python -m benchmarks.train_step --torch_python=PYTHON
    python -m benchmarks.train_step --modality=audio --torch_python=PYTHON
    python -m benchmarks.train_step --family=transformer --torch_python=PYTHON

torchvision's r2plus1d_18 on 8 x 112 x 112 clips (or its ResNet-18 with one channel on
100 x 40 log-mel), by this project's training step and extraction and by PyTorch with
SGD, the same batch, all cores, each engine in a process of its own, one after the other
and all of that --runs times. PyTorch is run in both memory formats, with autocast for
bfloat16, and the faster one counts. With --family=transformer they are ViT-S over
tubelets of 2 x 16 x 16, VideoMAE's class of the library transformers, or AST-S on 200 x
40, and the optimizer is AdamW. --torch_python is a Python with what
benchmarks/requirements-torch.txt lists. A training step counts as three times the
operations of a forward pass.
"""

import json
import os
import subprocess
import sys
import time

import numpy as np
from absl import app, flags, logging

_RUNS = flags.DEFINE_integer("runs", 3, "Runs of every engine; medians are printed.")
_STEPS = flags.DEFINE_integer(
    "steps", 4, "Timed steps of each run, after an untimed one."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Clips per batch.")
_MODALITY = flags.DEFINE_enum(
    "modality", "video", ["video", "audio"], "Modality to encode."
)
_FAMILY = flags.DEFINE_enum(
    "family", "residual", ["residual", "transformer"], "Family of encoders."
)
_PRECISIONS = flags.DEFINE_list(
    "precisions", ["float32", "bfloat16"], "Precisions of both engines."
)
_RETURN_MEMORY = flags.DEFINE_bool(
    "return_memory", False, "Leave the allocator of this project's processes as it is."
)
_TORCH_PYTHON = flags.DEFINE_string(
    "torch_python", sys.executable, "A Python that has torch and torchvision."
)
_RUN = flags.DEFINE_string("run", "", "Used by this program for its subprocesses.")

# A fixed core type and cache size slow products down.
_UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_NUM_CLASSES = 256
# By modality: this project's form and depth, and the shape of a clip.
_ENCODERS = {
    "video": ("r2plus1d_torchvision", 18, (8, 112, 112, 3)),
    "audio": ("resnet_torchvision", 18, (100, 40, 1)),
}
# The same of transformers: settings, and the shape of a clip.
_TRANSFORMERS = {
    "video": (
        ("vit", "S", 12, 2, 16, "joint", "mean_then_norm", 0, 0, 0.0),
        (8, 112, 112, 3),
    ),
    "audio": (("ast", "S", 12, 16, 10, "class", 2, 0, 0.0), (200, 40, 1)),
}


def _shape() -> tuple[int, ...]:
    """Of a clip."""
    table = _ENCODERS if _FAMILY.value == "residual" else _TRANSFORMERS
    return table[_MODALITY.value][-1]


def time_ours(precision: str) -> dict[str, float]:
    """Clips/s of make_train_step and of make_extract_clips, on one device."""
    from xdc_tf.runtime import tuning

    if not _RETURN_MEMORY.value:
        tuning.keep_freed_memory()
    import tensorflow as tf

    from xdc_tf.features import extraction
    from xdc_tf.models import encoder_table, layers, two_stream
    from xdc_tf.models.layers import LayerSettings
    from xdc_tf.runtime import compat
    from xdc_tf.training import configuration, optimizers, supervision, train_step

    modality = _MODALITY.value
    shape = _shape()
    clip = configuration.clip(configuration.Config(), None)
    if _FAMILY.value == "residual":
        name, depth, _ = _ENCODERS[modality]
        settings, optimizer_name = encoder_table.ResNetSettings(name, depth, 1.0), "sgd"
    else:
        kind = encoder_table.ENCODERS[_TRANSFORMERS[modality][0][0]].settings
        settings, optimizer_name = kind(*_TRANSFORMERS[modality][0]), "adamw"
        if modality == "audio":
            clip = clip._replace(audio_secs=shape[0] * clip.mel_hop_secs)
    method = supervision.Method(
        {modality: modality}, {modality: (supervision.TRUE_LABELS,)}
    )
    head = supervision.head_name(modality, supervision.TRUE_LABELS)
    dtype = "float32" if precision == "float32" else f"mixed_{precision}"
    model = two_stream.build(
        method.streams,
        architectures={modality: settings},
        clip=clip,
        layers=LayerSettings(dtype=dtype, weight_decay=1e-4, fast=True),
        heads={head: two_stream.HeadSettings(modality, _NUM_CLASSES)},
    )
    optimizer = optimizers.make(
        optimizer_name,
        model.trainable_variables,
        momentum=0.9,
        weight_decay=1e-4,
        scale_loss=False,
    )
    compat.set_learning_rate(optimizer, 0.01)
    strategy = tf.distribute.get_strategy()
    size = _BATCH_SIZE.value
    labels = tf.Variable(np.arange(size, dtype=np.int32) % _NUM_CLASSES)
    train = train_step.make_train_step(
        model,
        method,
        {supervision.TRUE_LABELS: labels},
        optimizer,
        strategy=strategy,
        settings=train_step.StepSettings(size),
    )
    folded = {modality: layers.fold(model.encoders[modality])}
    extract = extraction.make_extract_clips(folded, method.streams, strategy=strategy)
    batch = {
        modality: tf.random.stateless_normal([size, *shape], seed=[0, 0]),
        "example_index": tf.range(size, dtype=tf.int64),
    }
    starts = {"start_secs": tf.zeros([size], tf.float64)}

    return {
        "training": _clips_per_sec(
            lambda: tf.nest.map_structure(
                lambda value: value.numpy(), train(batch).sums
            )
        ),
        "forward": _clips_per_sec(lambda: list(extract([batch | starts]))),
        "flops": _flops(model.encoders[modality], shape),
        "peak_gib": _peak_gib(),
    }


def _flops(encoder, shape) -> int:
    from xdc_tf.planning import operations

    return operations.count(encoder, shape).flops


def time_torch(precision: str, memory_format: str) -> dict[str, float]:
    """Clips/s of PyTorch's training step and forward pass."""
    import torch

    if _FAMILY.value == "transformer":
        return _time_transformers(precision)
    import torchvision

    if _MODALITY.value == "video":
        model = torchvision.models.video.r2plus1d_18(num_classes=_NUM_CLASSES)
        channels_last = torch.channels_last_3d
    else:
        model = torchvision.models.resnet18(num_classes=_NUM_CLASSES)
        model.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
        channels_last = torch.channels_last
    formats = {"contiguous": torch.contiguous_format, "channels_last": channels_last}
    layout = formats[memory_format]
    shape = _shape()
    clips = torch.randn(_BATCH_SIZE.value, shape[-1], *shape[:-1])
    clips, model = clips.to(memory_format=layout), model.to(memory_format=layout)
    optimizer = torch.optim.SGD(
        model.parameters(), 0.01, momentum=0.9, weight_decay=1e-4
    )
    return _time_torch_steps(precision, model, lambda: model(clips), optimizer)


def _time_transformers(precision: str) -> dict[str, float]:
    import torch
    import transformers

    form = {
        "hidden_size": 384,
        "num_attention_heads": 6,
        "num_hidden_layers": 12,
        "intermediate_size": 1536,
        "num_labels": _NUM_CLASSES,
    }
    shape = _shape()
    if _MODALITY.value == "video":
        frames, side = shape[:2]
        model = transformers.VideoMAEForVideoClassification(
            transformers.VideoMAEConfig(image_size=side, num_frames=frames, **form)
        )
        clips = torch.randn(_BATCH_SIZE.value, frames, 3, side, side)
    else:
        frames, filters = shape[:2]
        model = transformers.ASTForAudioClassification(
            transformers.ASTConfig(max_length=frames, num_mel_bins=filters, **form)
        )
        clips = torch.randn(_BATCH_SIZE.value, frames, filters)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=1e-4)
    return _time_torch_steps(precision, model, lambda: model(clips).logits, optimizer)


def _time_torch_steps(precision: str, model, compute, optimizer) -> dict[str, float]:
    import torch

    labels = torch.arange(_BATCH_SIZE.value) % _NUM_CLASSES

    def output():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            return compute()

    def train():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(output().float(), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    def extract():
        with torch.inference_mode():
            return output().float().numpy()

    model.train()
    training = _clips_per_sec(train)
    model.eval()
    forward = _clips_per_sec(extract)
    return {"training": training, "forward": forward, "peak_gib": _peak_gib()}


def time_ceiling() -> dict[str, float]:
    """GFLOP/s of the fastest of some large matrix products."""
    from xdc_tf.planning import device_table

    flops = device_table.measure().product_flops
    return {name: rate / 1e9 for name, rate in flops.items()}


def _clips_per_sec(step) -> float:
    step()
    secs = []
    for _ in range(_STEPS.value):
        start = time.perf_counter()
        step()
        secs.append(time.perf_counter() - start)
    return _BATCH_SIZE.value / float(np.median(secs))


def _peak_gib() -> float:
    with open("/proc/self/status", encoding="utf-8") as file:
        peak = next(line for line in file if line.startswith("VmHWM:"))
    return int(peak.split()[1]) / 2**20


def _in_a_process(engine: str) -> dict[str, float]:
    environment = {name: v for name, v in os.environ.items() if name not in _UNSET}
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    python = _TORCH_PYTHON.value if engine.startswith("torch") else sys.executable
    passed = (_STEPS, _BATCH_SIZE, _MODALITY, _FAMILY)
    values = {flag.name: flag.value for flag in passed}
    done = subprocess.run(
        [
            python,
            "-m",
            "benchmarks.train_step",
            f"--run={engine}",
            f"--return_memory={_RETURN_MEMORY.value}",
            *(f"--{name}={value}" for name, value in values.items()),
        ],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def compare() -> None:
    """Prints a row per engine and precision, and ours by the faster of PyTorch's."""
    layouts = ["contiguous"]
    if _FAMILY.value == "residual":
        layouts.append("channels_last")
    engines = ["ceiling"]
    for precision in _PRECISIONS.value:
        engines += [f"torch:{precision}:{layout}" for layout in layouts]
        engines += [f"ours:{precision}"]
    runs = []
    for number in range(_RUNS.value):
        runs.append({engine: _in_a_process(engine) for engine in engines})
        print(f"run {number + 1}: {json.dumps(runs[-1])}", file=sys.stderr, flush=True)

    def median(engine, key):
        return float(np.median([run[engine][key] for run in runs]))

    size, shape = _BATCH_SIZE.value, _shape()
    print(
        f"{_MODALITY.value}, batch {size} of {shape}, medians of {len(runs)} runs; "
        + ", ".join(
            f"{precision} products {median('ceiling', precision):.0f} GFLOP/s"
            for precision in _PRECISIONS.value
        )
    )
    print(
        "| engine | training, clips/s | of the ceiling | by PyTorch's | "
        "forward, clips/s | of the ceiling | by PyTorch's | peak memory |\n"
        "|---|--:|--:|--:|--:|--:|--:|--:|"
    )
    for engine in engines[1:]:
        precision = engine.split(":")[1]
        gflop = median(f"ours:{precision}", "flops") / 1e9
        cells = [engine.replace(":", " ")]
        for key, passes in (("training", 3), ("forward", 1)):
            rate = median(engine, key)
            of_ceiling = rate * gflop * passes / median("ceiling", precision)
            # Within each run, so that a slow hour counts for both.
            ratio = np.median(
                [
                    run[engine][key]
                    / max(run[f"torch:{precision}:{layout}"][key] for layout in layouts)
                    for run in runs
                ]
            )
            cells += [f"{rate:.2f}", f"{of_ceiling:.0%}", f"{ratio:.2f}"]
        cells.append(f"{median(engine, 'peak_gib'):.1f} GiB")
        print("| " + " | ".join(cells) + " |")


def main(_) -> None:
    """Runs what the flags ask for."""
    logging.set_verbosity(logging.WARNING)
    if not _RUN.value:
        compare()
        return
    engine, *arguments = _RUN.value.split(":")
    run = {"ours": time_ours, "torch": time_torch, "ceiling": time_ceiling}[engine]
    print(json.dumps(run(*arguments)))


if __name__ == "__main__":
    app.run(main)
