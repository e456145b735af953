"""Encoders as .keras files, which open without this project."""

import os

import keras


def save_encoder(encoder: keras.Model, path: str) -> None:
    """Writes an encoder whole or not at all; makes the folder."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = path.removesuffix(".keras") + ".tmp.keras"
    encoder.save(temporary)
    os.replace(temporary, path)


def load_encoder(path: str) -> keras.Model:
    """Opens an encoder.

    Raises:
      FileNotFoundError: if there is none.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"{path} does not exist: the run has not finished a round yet; go on with "
            "python -m xdc_tf.cli.pretrain."
        )
    return keras.models.load_model(path, compile=False)
