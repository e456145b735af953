"""Gradient checkpointing: what a block computed is computed again for its gradients.

Between the forward and the backward pass only the tensors between the blocks are kept
(Chen et al. 2016, "Training deep nets with sublinear memory cost"). An encoder whose
layers keep statistics of what passes, as batch norm does, would count it twice; only
encoders that say where their blocks end can be trained so.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from xdc_tf.models import token_layers, transformer


def is_possible(encoder: keras.Model) -> bool:
    """Whether an encoder has blocks that can be computed again."""
    return bool(transformer.block_ends(encoder))


def recomputing(encoder: keras.Model) -> Callable[..., tf.Tensor]:
    """An encoder in training that computes its blocks again in the backward pass.

    Args:
      encoder: of `is_possible`.

    Returns:
      A function of (clips, training) that gives what the encoder gives, and gradients
      with respect to its variables.
    """
    ends = [encoder.input]
    ends += [encoder.get_layer(n).output for n in transformer.block_ends(encoder)]
    first, *blocks = [
        keras.Model(start, end) for start, end in zip(ends, ends[1:], strict=False)
    ]
    last = keras.Model(ends[-1], encoder.output)

    def compute(clips: tf.Tensor, training: bool) -> tf.Tensor:
        if not training:
            return encoder(clips, training=False)
        # The backward pass is outside of token_layers.random_seed.
        seed = token_layers.current_seed()
        tokens = first(clips, training=True)
        for block in blocks:
            tokens = tf.recompute_grad(_seeded(block, seed))(tokens)
        return last(tokens, training=True)

    return compute


def _seeded(
    block: keras.Model, seed: tf.Tensor | None
) -> Callable[[tf.Tensor], tf.Tensor]:
    def compute(tokens):
        if seed is None:
            return block(tokens, training=True)
        with token_layers.random_seed(seed):
            return block(tokens, training=True)

    return compute
