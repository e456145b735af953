"""Positions of a transformer's tokens, resized for clips of another shape."""

from collections.abc import Callable, Sequence

import numpy as np


def resize(
    positions: np.ndarray, grid: Sequence[int], new_grid: Sequence[int]
) -> np.ndarray:
    """Positions of the tokens of another grid.

    Args:
      positions: [extra + tokens, D], or [T, extra + H W, D] for divided attention,
        float32; the extra rows, of class and register tokens, stay as they are in
        space.
      grid: [T, H, W] or [frames, filters] of the tokens.
      new_grid: of the same length.

    Returns:
      As `positions`, of the new grid.
    """
    if tuple(grid) == tuple(new_grid):
        return positions
    (time, *place), (new_time, *new_place) = (
        (1, *sizes) if len(sizes) == 2 else tuple(sizes) for sizes in (grid, new_grid)
    )
    width = positions.shape[-1]
    per_time = positions.ndim == 3
    num_patches = place[0] * place[1] * (1 if per_time else time)
    num_extra = positions.shape[-2] - num_patches
    extra, patches = np.split(positions, [num_extra], axis=-2)
    in_time = _resampling(time, new_time, _linear)
    rows, columns = (
        _resampling(old, new, _cubic) for old, new in zip(place, new_place, strict=True)
    )
    images = patches.reshape(time, *place, width)
    images = np.einsum("st,yi,xj,tijd->syxd", in_time, rows, columns, images)
    images = images.reshape(new_time, -1, width)
    if per_time:
        extra = np.einsum("st,tnd->snd", in_time, extra)
    else:
        images = images.reshape(-1, width)
    return np.concatenate([extra, images], axis=-2).astype(np.float32)


def _resampling(
    old: int, new: int, kernel: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """[new, old] float64: weights of old values in new ones, the ends repeated."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    # Four values around a centre; linear ones have weight 0 beyond two.
    taps = np.floor(centres)[:, np.newaxis].astype(int) + np.arange(-1, 3)
    weights = np.zeros((new, old))
    places = np.broadcast_to(np.arange(new)[:, np.newaxis], taps.shape)
    values = kernel(np.abs(taps - centres[:, np.newaxis]))
    np.add.at(weights, (places, np.clip(taps, 0, old - 1)), values)
    return weights


def _linear(distance: np.ndarray) -> np.ndarray:
    return np.maximum(0, 1 - distance)


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys's cubic convolution with a = -0.75, as PyTorch interpolates."""
    a, d = -0.75, distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
