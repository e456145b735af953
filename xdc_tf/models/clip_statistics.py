"""Statistics of clips that tell some contents apart without an encoder.

What the first clusters can be made of, as HuBERT's are of cepstra: features of random
encoders hardly agree between modalities. Both run on any device, inside a
`tf.function` too.

N. Dalal, B. Triggs: Histograms of Oriented Gradients for Human Detection, CVPR 2005.
W.-N. Hsu et al.: HuBERT, IEEE/ACM TASLP 2021, section II-B.
"""

import math

import tensorflow as tf

_CELLS = 4
_ORIENTATIONS = 8
# Frames are averaged down to between one and two times that many pixels.
_SHORT_SIDE = 40
_CEPSTRA = 13


def oriented_gradients(frames: tf.Tensor) -> tf.Tensor:
    """Histograms of oriented gradients of a grid of cells, averaged over time.

    Args:
      frames: [B, T, H, W, 3] float32.

    Returns:
      [B, 128] float32, square roots: 4 x 4 cells of 8 orientations.
    """
    num_frames = frames.shape[1]
    if min(frames.shape[2:4]) <= _CELLS:  # a pixel more than cells, for differences
        for axis in (2, 3):
            frames = tf.repeat(frames, _CELLS + 1, axis=axis)
    height, width = frames.shape[2:4]
    gray = tf.reshape(tf.reduce_mean(frames, -1), [-1, height, width, 1])
    factor = max(1, min(height, width) // _SHORT_SIDE)
    gray = tf.nn.avg_pool2d(gray, factor, factor, "VALID")[..., 0]
    across = (gray[:, :, 1:] - gray[:, :, :-1])[:, :-1]
    down = (gray[:, 1:] - gray[:, :-1])[:, :, :-1]
    strength = tf.sqrt(tf.square(across) + tf.square(down))
    # Of lines: their two directions are one.
    turns = tf.math.mod(tf.atan2(down, across) / math.pi, 1.0)
    bins = tf.math.mod(tf.floor(turns * _ORIENTATIONS), _ORIENTATIONS)
    histogram = tf.stack(
        [tf.where(bins == number, strength, 0.0) for number in range(_ORIENTATIONS)], -1
    )
    sides = [side // _CELLS for side in histogram.shape[1:3]]
    cells = tf.nn.avg_pool2d(histogram, sides, sides, "VALID")[:, :_CELLS, :_CELLS]
    size = _CELLS**2 * _ORIENTATIONS
    of_clips = tf.reshape(cells, [-1, num_frames, size])
    return tf.sqrt(tf.reduce_mean(of_clips, axis=1))


def cepstra(log_mel: tf.Tensor) -> tf.Tensor:
    """Cepstra over a clip: their means, and how much they and their changes deviate.

    Args:
      log_mel: [B, L, M, 1] float32.

    Returns:
      [B, 4 * min(13, M)] float32: means and standard deviations of the first 13
      coefficients, then standard deviations of their first and second differences.
    """
    coefficients = tf.signal.dct(log_mel[..., 0], norm="ortho")[..., :_CEPSTRA]
    first = _differences(coefficients)
    parts = [tf.reduce_mean(coefficients, axis=1)]
    for rows in (coefficients, first, _differences(first)):
        parts.append(tf.math.reduce_std(rows, axis=1))
    return tf.concat(parts, axis=-1)


def _differences(rows: tf.Tensor) -> tf.Tensor:
    """[B, L, C]: of the rows after and before; of the first and last, of themselves."""
    padded = tf.concat([rows[:, :1], rows, rows[:, -1:]], axis=1)
    return padded[:, 2:] - padded[:, :-2]
