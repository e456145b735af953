"""A run's encoders and heads as files, for other programs."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from xdc_tf.distribution import workers
from xdc_tf.labels import whole_directories
from xdc_tf.models import encoder_files
from xdc_tf.runtime import files
from xdc_tf.runtime import workdir as run_directory
from xdc_tf.training import supervision
from xdc_tf.training.run import Run


def save_initial(run: Run, portable_encoders: Mapping[str, keras.Model]) -> None:
    """Writes the encoders that the run starts from.

    Args:
      run: whose encoders; all processes call this.
      portable_encoders: by stream, float32 ones that receive the weights.

    Raises:
      OSError: if the disk fails, here and in all functions of this module.
    """
    _take_weights(run, portable_encoders)
    workers.on_chief(
        run.strategy,
        lambda: _write_encoders(portable_encoders, run.workdir, initial=True),
    )


def save_finished_round(run: Run, portable_encoders: Mapping[str, keras.Model]) -> None:
    """Writes encoders and heads after a round, the run's result so far."""
    best_loss = float(run.state.progress.best_loss)
    card = {
        "rounds": int(run.state.progress.round_index) + 1,
        "steps": int(run.state.progress.step),
        "held_out_loss": best_loss if np.isfinite(best_loss) else None,
    }
    _take_weights(run, portable_encoders)
    workers.on_chief(
        run.strategy,
        lambda: _write_with_heads(run, portable_encoders, run.workdir, card=card),
    )


def save_best(run: Run, portable_encoders: Mapping[str, keras.Model]) -> None:
    """Writes encoders and heads of the round's lowest held-out loss so far, as one."""
    card = {
        "round": int(run.state.progress.round_index),  # whose labels the heads know
        "steps": int(run.state.progress.step),
        "held_out_loss": float(run.state.progress.best_loss),
    }

    def write() -> None:
        with whole_directories.replacing(
            Path(run.workdir, run_directory.BEST_DIR)
        ) as partial:
            _write_with_heads(run, portable_encoders, str(partial), card=card)

    _take_weights(run, portable_encoders)
    workers.on_chief(run.strategy, write)


def _take_weights(run: Run, portable_encoders: Mapping[str, keras.Model]) -> None:
    for stream, encoder in portable_encoders.items():
        # Statistics of batch norm are read from all processes together.
        encoder.set_weights(run.state.model.encoders[stream].get_weights())


def _write_encoders(
    portable_encoders: Mapping[str, keras.Model],
    directory: str,
    *,
    initial: bool = False,
) -> None:
    """As .keras files that open without this project."""
    for stream, encoder in portable_encoders.items():
        encoder_files.save_encoder(
            encoder, run_directory.encoder_file(directory, stream, initial=initial)
        )


def _write_with_heads(
    run: Run,
    portable_encoders: Mapping[str, keras.Model],
    directory: str,
    *,
    card: Mapping[str, Any],
) -> None:
    """Encoders, heads and what is card of them: rounds, steps, loss."""
    _write_encoders(portable_encoders, directory)
    for stream, sources in run.method.supervision.items():
        layers = {
            source: run.state.model.heads[supervision.head_name(stream, source)]
            for source in sources
        }
        heads = {
            source: encoder_files.Head(layer.kernel.numpy(), layer.bias.numpy())
            for source, layer in layers.items()
        }
        encoder_files.save_heads(heads, run_directory.heads_file(directory, stream))
    path = os.path.join(directory, run_directory.ENCODERS_FILE)
    files.write_text(path, json.dumps(card) + "\n")
