"""The forms of a convolution, by type and pass: what fast_layers.FORMS was chosen by.

    python -m benchmarks.convolutions
    python -m benchmarks.convolutions --width=0.125 --crop_size=40 --batch_size=16

prints, for the convolutions of R(2+1)D-18 on clips of 8 frames, the milliseconds of
output, input's gradient and kernel's gradient as 2-d and as 3-d convolutions and with
matrix products, and the sum over the network. In bfloat16 2-d gradients take seconds.
"""

import time

import numpy as np
import tensorflow as tf
from absl import app, flags

from xdc_tf.models import fast_layers
from xdc_tf.models.video_resnet import mid_planes

_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Clips per batch.")
_WIDTH = flags.DEFINE_float("width", 1.0, "Of the network, which multiplies channels.")
_CROP_SIZE = flags.DEFINE_integer(
    "crop_size", 112, "Height and width of clips, a multiple of 8 or near it."
)
_TYPES = flags.DEFINE_list("types", ["float32", "bfloat16"], "Dtypes to measure.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed calls; the median is printed.")

_FORMS = (fast_layers.PLANAR, fast_layers.SPATIAL, fast_layers.MATMUL)


def convolutions():
    """Name, clip shape [T, H, W, C], kernel, strides and number of each layer."""
    spatial, temporal = (1, 3, 3), (3, 1, 1)
    crop, half = _CROP_SIZE.value, _CROP_SIZE.value // 2
    first, mid = int(64 * _WIDTH.value), max(1, int(45 * _WIDTH.value))
    yield "stem spatial", (8, crop, crop, 3), (1, 7, 7, 3, mid), (1, 2, 2), 1
    yield "stem temporal", (8, half, half, mid), (*temporal, mid, first), (1, 1, 1), 1
    for stage in range(1, 5):
        planes = first * 2 ** (stage - 1)
        frames, side = 8 >> (stage - 1), half >> (stage - 1)
        number = 4
        if stage > 1:
            number, before = 3, planes // 2
            mid = mid_planes(before, planes)
            yield (
                f"stage {stage} spatial, halving",
                (2 * frames, 2 * side, 2 * side, before),
                (*spatial, before, mid),
                (1, 2, 2),
                1,
            )
            yield (
                f"stage {stage} temporal, halving",
                (2 * frames, side, side, mid),
                (*temporal, mid, planes),
                (2, 1, 1),
                1,
            )
        mid, clip = mid_planes(planes, planes), (frames, side, side)
        ones = (1, 1, 1)
        kernel = (*spatial, planes, mid)
        yield f"stage {stage} spatial", (*clip, planes), kernel, ones, number
        kernel = (*temporal, mid, planes)
        yield f"stage {stage} temporal", (*clip, mid), kernel, ones, number


def milliseconds(clip, kernel, strides, form: str, dtype: str) -> np.ndarray:
    """[3] of output, input's gradient and kernel's gradient."""
    clips = tf.cast(tf.random.normal([_BATCH_SIZE.value, *clip]), dtype)
    weights = tf.cast(0.05 * tf.random.normal(kernel), dtype)
    upstream = tf.ones_like(fast_layers.convolve(clips, weights, strides, form))

    def output(clips, weights, upstream):
        del upstream
        return fast_layers.convolve(clips, weights, strides, form)

    def gradient(number):
        def compute(clips, weights, upstream):
            with tf.GradientTape() as tape:
                tape.watch([clips, weights])
                result = fast_layers.convolve(clips, weights, strides, form)
            return tape.gradient(result, (clips, weights)[number], upstream)

        return compute

    def median(compute):
        @tf.function(autograph=False)
        def timed(*arguments):
            # One number, so that fetching the result costs nothing.
            return tf.reshape(compute(*arguments), [-1])[0]

        timed(clips, weights, upstream)
        secs = []
        for _ in range(_REPEATS.value):
            start = time.perf_counter()
            timed(clips, weights, upstream).numpy()
            secs.append(time.perf_counter() - start)
        return 1000 * float(np.median(secs))

    return np.array(
        [median(kernel_secs) for kernel_secs in (output, gradient(0), gradient(1))]
    )


def main(_) -> None:
    """Prints a table for each type."""
    for dtype in _TYPES.value:
        print(f"\n{dtype}, batch {_BATCH_SIZE.value}, ms\n")
        names = [
            f"{what}, {form}"
            for form in _FORMS
            for what in ("output", "input", "kernel")
        ]
        print(f"| convolution | times | {' | '.join(names)} |")
        print("|---|--:|" + "--:|" * len(names))
        total = 0.0
        for name, clip, kernel, strides, number in convolutions():
            taken = np.concatenate(
                [milliseconds(clip, kernel, strides, form, dtype) for form in _FORMS]
            )
            total = total + number * taken
            cells = " | ".join(f"{value:.1f}" for value in taken)
            print(f"| {name} | {number} | {cells} |", flush=True)
        print(f"| all | | {' | '.join(f'{value:.0f}' for value in total)} |")


if __name__ == "__main__":
    app.run(main)
