"""Encoders as .keras files, which open without this project; their heads as .npz."""

import os
from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np

from xdc_tf import files


class Head(NamedTuple):
    """A linear classifier on an encoder's features.

    Attributes:
      kernel: [D, K] float32.
      bias: [K] float32.
    """

    kernel: np.ndarray
    bias: np.ndarray


def save_encoder(encoder: keras.Model, path: str) -> None:
    """Writes an encoder whole or not at all; makes the folder.

    Raises:
      OSError: if it cannot be written; names the path.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with files.placing(path) as temporary:
        encoder.save(temporary)


def load_encoder(path: str) -> keras.Model:
    """Opens an encoder.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if this Keras cannot open it.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"{path} does not exist: the run has not finished a round yet; go on with "
            "python -m xdc_tf.cli.pretrain."
        )
    try:
        return keras.models.load_model(path, compile=False)
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be opened by Keras {keras.__version__} ({error}). A .keras "
            "file opens with the generation of Keras, 2 or 3, that wrote it; use that "
            "one, or an export's SavedModel, which opens with both."
        ) from error


def save_heads(heads: Mapping[str, Head], path: str) -> None:
    """Writes an encoder's heads, by the source of their labels, whole or not at all.

    Raises:
      OSError: if they cannot be written; names the path.
    """
    arrays = {
        f"{source}/{name}": np.asarray(value, np.float32)
        for source, head in heads.items()
        for name, value in head._asdict().items()
    }
    with files.placing(path) as temporary:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)


def load_heads(path: str) -> dict[str, Head]:
    """An encoder's heads by the source of their labels; none if there is no file."""
    if not os.path.exists(path):
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        sources = dict.fromkeys(name.rpartition("/")[0] for name in arrays.files)
        return {
            source: Head(arrays[f"{source}/kernel"], arrays[f"{source}/bias"])
            for source in sources
        }
