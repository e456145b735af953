"""What folded batch norm is worth: time of a forward pass next to the encoder's own.

    python -m benchmarks.folding

runs each encoder in evaluation mode and its folded copy on the same random clips, both
as `tf.function`s, one after the other in turn, and prints the median times and their
ratio as a table in Markdown.
"""

import argparse
import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from xdc_tf.models import encoder_table, layers
from xdc_tf.models.encoder_table import EncoderSettings, ResNetSettings
from xdc_tf.models.layers import LayerSettings
from xdc_tf.runtime import compat
from xdc_tf.training import configuration


class Case(NamedTuple):
    """An encoder and the shape of its batches."""

    modality: str
    encoder: EncoderSettings
    shape: tuple[int, ...]


CASES = (
    Case("video", ResNetSettings("r2plus1d", 18, 1.0), (4, 8, 112, 112, 3)),
    Case("video", ResNetSettings("r2plus1d_avid", 18, 1.0), (4, 8, 112, 112, 3)),
    Case("audio", ResNetSettings("resnet", 18, 1.0), (32, 100, 40, 1)),
    # configs/synthetic.py
    Case("video", ResNetSettings("r2plus1d", 10, 0.125), (64, 8, 40, 40, 3)),
    Case("audio", ResNetSettings("resnet", 10, 0.125), (64, 100, 40, 1)),
)


def measure(case: Case, *, repeats: int, dtype: str) -> tuple[float, float, float]:
    """Median seconds of the encoder and of its folded copy, and their greatest
    difference relative to the greatest feature."""
    clip = configuration.clip(configuration.Config(), None)
    layer_settings = LayerSettings(dtype=dtype)
    encoder = encoder_table.build(case.encoder, layer_settings, "encoder", clip)
    folded = layers.fold(encoder)
    clips = tf.constant(np.random.default_rng(0).normal(size=case.shape), tf.float32)
    functions = [
        tf.function(lambda model=model: model(clips, training=False))
        for model in (encoder, folded)
    ]
    unfolded_features, folded_features = (function().numpy() for function in functions)
    secs = ([], [])
    for _ in range(repeats):
        for function, times in zip(functions, secs, strict=True):
            start = time.perf_counter()
            function().numpy()
            times.append(time.perf_counter() - start)
    error = np.abs(folded_features - unfolded_features).max()
    return (*map(np.median, secs), error / np.abs(unfolded_features).max())


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--dtype", default="float32", help="or mixed_bfloat16")
    arguments = parser.parse_args()
    print(", ".join(f"{name} {value}" for name, value in compat.versions().items()))
    print(
        "| encoder | depth | width | batch | unfolded, ms | folded, ms | "
        "folded / unfolded | difference |\n|---|--:|--:|---|--:|--:|--:|--:|"
    )
    for case in CASES:
        unfolded, folded, difference = measure(
            case, repeats=arguments.repeats, dtype=arguments.dtype
        )
        architecture, depth, width = case.encoder
        print(
            f"| {architecture} | {depth} | {width} | "
            f"{' x '.join(map(str, case.shape))} | {1e3 * unfolded:.1f} | "
            f"{1e3 * folded:.1f} | {folded / unfolded:.3f} | {difference:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
