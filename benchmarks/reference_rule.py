"""Weights and input that PyTorch and this project draw alike, from names alone."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

LABELS = (3, 141)  # of the two clips, for the gradient of one step


def weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """float32 tensors for a state dict's keys, each seeded by the CRC of its key."""

    def draw(key, shape):
        rng = np.random.RandomState(zlib.crc32(key.encode()))
        if key.startswith("fc."):
            return rng.standard_normal(shape) * 0.02
        if len(shape) >= 4:
            return rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        if key.endswith(("running_var", "weight")):
            return rng.uniform(0.5, 1.5, shape)
        if key.endswith("num_batches_tracked"):
            return np.zeros(shape)
        return rng.standard_normal(shape) * 0.1

    return {key: draw(key, shape).astype(np.float32) for key, shape in shapes.items()}


def transformer_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """float32 tensors for a transformer's keys, each seeded by the CRC of its key."""

    def draw(key, shape):
        rng = np.random.RandomState(zlib.crc32(key.encode()))
        if key.endswith(("norm.weight", "norm1.weight", "norm2.weight", "lambda1")):
            return rng.uniform(0.5, 1.5, shape)
        if "norm_" in key and key.endswith(".weight"):
            return rng.uniform(0.5, 1.5, shape)
        if key.endswith(".weight"):
            return rng.standard_normal(shape) * 1.5 / np.sqrt(np.prod(shape[1:]))
        return rng.standard_normal(shape) * 0.3

    return {key: draw(key, shape).astype(np.float32) for key, shape in shapes.items()}


def noise(*shape: int) -> np.ndarray:
    """float32 of that shape from a standard normal distribution."""
    return np.random.RandomState(0).standard_normal(shape).astype(np.float32)


def clips() -> np.ndarray:
    """[2, 3, 8, 112, 112] float32: clips with the channels first."""
    drawn = np.random.RandomState(0).standard_normal((2, 3, 8, 112, 112))
    return drawn.astype(np.float32)


def spectrograms() -> np.ndarray:
    """[2, 1, 100, 40] float32: log-mel spectrograms with the channel first."""
    drawn = np.random.RandomState(0).standard_normal((2, 1, 100, 40))
    return drawn.astype(np.float32)


def part(drawn: np.ndarray) -> np.ndarray:
    """The part that a training step is taken on: half the frames of a corner."""
    return drawn[:, :, :4, :48, :48] if drawn.ndim == 5 else drawn
