"""An audio transformer as the library transformers has it: ASTModel (Gong et al. 2021).

Of the names under which it saves models, which its releases all open.
"""

from typing import Any

import keras
import numpy as np

from xdc_tf.models import transformer
from xdc_tf.models.encoder_table import EncoderSettings
from xdc_tf.models.transformer import SpectrogramSettings

# Of its layers; AST's own default is another one.
_EPSILON = 1e-6
_MLP_RATIO = 4


def check(settings: EncoderSettings) -> SpectrogramSettings:
    """The settings, of a form that ASTModel has.

    Raises:
      ValueError: it is another one; says which keys would have to differ.
    """
    if not isinstance(settings, SpectrogramSettings):
        raise ValueError(
            "PyTorch's names are known of residual networks and AST, and this is "
            f"{settings.architecture}; export a SavedModel or ONNX."
        )
    form = settings.pool, settings.class_tokens, settings.register_tokens
    if form != (transformer.CLASS, 2, 0):
        raise ValueError(
            "PyTorch's ASTModel has pool=class, class_tokens=2 and register_tokens=0, "
            f"and this encoder pool={form[0]}, class_tokens={form[1]} and "
            f"register_tokens={form[2]}; export a SavedModel or ONNX, or train one "
            "with AST's values."
        )
    return settings


def config(settings: SpectrogramSettings, encoder: keras.Model) -> dict[str, Any]:
    """The arguments of transformers.ASTConfig."""
    size = transformer.SIZES[settings.size]
    frames, filters = encoder.input_shape[1:3]
    return {
        "hidden_size": size.width,
        "num_hidden_layers": settings.depth,
        "num_attention_heads": size.num_heads,
        "intermediate_size": _MLP_RATIO * size.width,
        "patch_size": settings.patch,
        "time_stride": settings.stride,
        "frequency_stride": settings.stride,
        "max_length": frames,
        "num_mel_bins": filters,
        "layer_norm_eps": _EPSILON,
    }


def state_dict(
    settings: SpectrogramSettings, encoder: keras.Model
) -> dict[str, np.ndarray]:
    """Tensors by the names of a saved ASTModel.

    Args:
      settings: of `check`.
      encoder: transformer.build's of these settings.
    """
    kernel, bias = encoder.get_layer("patches").get_weights()
    scale, positions = encoder.get_layer("positions").get_weights()
    times, filters = encoder.get_layer("patches").output.shape[1:3]
    width = transformer.SIZES[settings.size].width
    extra, patches = positions[:2], positions[2:]
    # There the filters come first, in kernels and among the patches.
    patches = patches.reshape(times, filters, width).swapaxes(0, 1)
    table = np.concatenate([extra, patches.reshape(-1, width)])[np.newaxis]
    patches_name = "embeddings.patch_embeddings.projection"
    tensors = {
        # Training may move the factors of the positions' layer from 1.
        f"{patches_name}.weight": np.moveaxis(kernel * scale, range(4), (3, 2, 1, 0)),
        f"{patches_name}.bias": bias * scale,
        "embeddings.position_embeddings": table,
    }
    for name in ("cls_token", "distillation_token"):
        # They are with their positions.
        tensors[f"embeddings.{name}"] = np.zeros([1, 1, width], np.float32)
    for number in range(settings.depth):
        tensors |= _block(
            encoder, f"block{number + 1}_", f"encoder.layer.{number}.", width
        )
    tensors |= _norm(encoder, f"block{settings.depth}_final_norm", "layernorm")
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def _block(
    encoder: keras.Model, ours: str, theirs: str, width: int
) -> dict[str, np.ndarray]:
    weights = encoder.get_layer(f"{ours}attention").get_weights()
    modules = [f"attention.attention.{part}" for part in ("query", "key", "value")]
    tensors = {}
    for number, module in enumerate([*modules, "attention.output.dense"]):
        kernel, bias = weights[2 * number : 2 * number + 2]
        tensors[f"{theirs}{module}.weight"] = kernel.reshape(width, width).T
        tensors[f"{theirs}{module}.bias"] = bias.reshape(width)
    for layer, module in (
        ("mlp_hidden", "intermediate.dense"),
        ("mlp_output", "output.dense"),
    ):
        kernel, bias = encoder.get_layer(ours + layer).get_weights()
        tensors[f"{theirs}{module}.weight"] = kernel.T
        tensors[f"{theirs}{module}.bias"] = bias
    tensors |= _norm(encoder, f"{ours}norm", f"{theirs}layernorm_before")
    return tensors | _norm(encoder, f"{ours}mlp_norm", f"{theirs}layernorm_after")


def _norm(encoder: keras.Model, ours: str, theirs: str) -> dict[str, np.ndarray]:
    gamma, beta = encoder.get_layer(ours).get_weights()
    return {f"{theirs}.weight": gamma, f"{theirs}.bias": beta}
