"""An encoder in formats that need nothing of this project.

A SavedModel finetunes and serves; TensorFlow Lite and ONNX are for other runtimes.
"""

import importlib
import types
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from xdc_tf.labels.label_makers import nearest
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.models import layers
from xdc_tf.models.encoder_files import Head
from xdc_tf.models.modalities import RawInput
from xdc_tf.runtime import compat

# Features read back may differ from the encoder's by the order of sums only.
TOLERANCE = 1e-4


def save_savedmodel(
    encoder: keras.Model,
    path: str,
    *,
    raw: RawInput,
    heads: Mapping[str, Head] | None = None,
    clustering: Clustering | None = None,
) -> None:
    """Writes a SavedModel with TensorFlow's reusable interface, and reads it back.

    The object has `__call__(inputs, training=False)`, `variables`,
    `trainable_variables` and `regularization_losses` (functions without arguments), so
    that tensorflow_hub.KerasLayer(path, trainable=True) finetunes it; in training mode
    it updates its batch-norm statistics. `prepare(raw)` gives the inputs of
    `__call__`. For its signatures see `signatures`.

    Args:
      encoder: model of one float32 input.
      path: directory to write.
      raw: the raw input that the signatures take.
      heads: classifiers on the features, by the source of their labels.
      clustering: of the features of this encoder.

    Raises:
      RuntimeError: if the features that come back differ.
    """
    spec = tf.TensorSpec(encoder.inputs[0].shape, tf.float32, name="inputs")

    @tf.function
    def call(inputs, training=False):
        return encoder(inputs, training=training)

    for training in (False, True):
        call.get_concrete_function(spec, training=training)
    exported = tf.train.Checkpoint()
    exported.__call__ = call
    exported.prepare = tf.function(raw.prepare, input_signature=[raw.spec])
    exported.variables = compat.tf_variables(encoder.variables)
    exported.trainable_variables = compat.tf_variables(encoder.trainable_variables)
    exported.regularization_losses = [
        tf.function(_penalty(layer), input_signature=[])
        for layer in encoder.layers
        if layer.losses
    ]
    tf.saved_model.save(
        exported,
        path,
        signatures=signatures(encoder, raw, heads=heads or {}, clustering=clustering),
    )
    sample = sample_input(encoder)
    check_features(call(sample), tf.saved_model.load(path)(sample), path)


def _penalty(layer):
    return lambda: tf.add_n(layer.losses)


def signatures(
    encoder: keras.Model,
    raw: RawInput,
    *,
    heads: Mapping[str, Head],
    clustering: Clustering | None,
) -> dict[str, tf.types.experimental.GenericFunction]:
    """Functions from raw input, named as `raw.spec` says, to a dictionary.

    Args:
      encoder: model of one float32 input.
      raw: the raw input that they take.
      heads: classifiers on the features, by the source of their labels; may be empty.
      clustering: of the features, if any.

    Returns:
      serving_default: {"features": [B, D]}. probabilities, if there are heads: for each
      the softmax over its classes or clusters, {source: [B, K]}. clusters, if there is
      a clustering: {"cluster": [B] int32, "distance": [B], "margin": [B]}.
    """

    def features(raw_values):
        inputs = tf.ensure_shape(raw.prepare(raw_values), encoder.inputs[0].shape)
        return encoder(inputs, training=False)

    def probabilities(raw_values):
        inputs = features(raw_values)
        return {
            source: tf.nn.softmax(tf.matmul(inputs, head.kernel) + head.bias)
            for source, head in heads.items()
        }

    functions = {"serving_default": lambda values: {"features": features(values)}}
    if heads:
        functions["probabilities"] = probabilities
    if clustering is not None:
        functions["clusters"] = lambda values: nearest(
            features(values), clustering
        )._asdict()
    return {
        name: tf.function(function, input_signature=[raw.spec])
        for name, function in functions.items()
    }


def sample_input(encoder: keras.Model) -> tf.Tensor:
    """A small batch of noise that fits an encoder."""
    sizes = [16 if size is None else size for size in encoder.inputs[0].shape]
    sizes[0] = 2
    return tf.random.stateless_normal(sizes, seed=[0, 0])


def check_features(expected: tf.Tensor, exported: tf.Tensor, path: str) -> None:
    """Checks that an exported file computes what the encoder does.

    Args:
      expected: [B, D] features of the encoder.
      exported: [B, D] features of the file.
      path: of the file.

    Raises:
      RuntimeError: if it does not.
    """
    difference = float(tf.reduce_max(tf.abs(exported - expected)))
    if not difference <= TOLERANCE * max(1.0, float(tf.reduce_max(tf.abs(expected)))):
        raise RuntimeError(
            f"{path} gives features that differ by {difference:.3g} from the encoder's."
        )


_ONNX_OPSET = 17


def save_tflite(encoder: keras.Model, path: str) -> None:
    """Writes a TensorFlow Lite model, and runs it.

    It takes normalised float32 input like the encoder; its interpreter needs
    the size by `resize_tensor_input`.

    Raises:
      RuntimeError: if its features differ from the encoder's.
    """
    function = _function(layers.fold(encoder, convertible=True))
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], function
    )
    content = converter.convert()
    with open(path, "wb") as file:
        file.write(content)
    interpreter = tf.lite.Interpreter(model_path=path)
    entry, result = interpreter.get_input_details()[0], interpreter.get_output_details()
    sample = sample_input(encoder)
    interpreter.resize_tensor_input(entry["index"], sample.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], sample)
    interpreter.invoke()
    features = interpreter.get_tensor(result[0]["index"])
    check_features(encoder(sample, training=False), features, path)


def save_onnx(encoder: keras.Model, path: str) -> None:
    """Writes an ONNX model (`inputs` -> `features`), and runs it.

    It takes normalised float32 input like the encoder, of any size.

    Raises:
      ValueError: without the packages of requirements-onnx.txt.
      RuntimeError: if its features differ from the encoder's.
    """
    tf2onnx, onnxruntime = onnx_packages()
    tf2onnx.convert.from_function(
        _function(layers.fold(encoder, convertible=True)),
        input_signature=[_spec(encoder)],
        opset=_ONNX_OPSET,
        output_path=path,
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    sample = sample_input(encoder)
    (features,) = session.run(["features"], {"inputs": np.asarray(sample)})
    check_features(encoder(sample, training=False), features, path)


def onnx_packages() -> tuple[types.ModuleType, types.ModuleType]:
    """tf2onnx and onnxruntime.

    Raises:
      ValueError: if one of them is not installed.
    """
    return _import("tf2onnx"), _import("onnxruntime")


def _spec(encoder: keras.Model) -> tf.TensorSpec:
    return tf.TensorSpec(encoder.inputs[0].shape, tf.float32, name="inputs")


def _function(encoder: keras.Model) -> tf.types.experimental.GenericFunction:
    return tf.function(
        lambda inputs: {"features": encoder(inputs, training=False)},
        input_signature=[_spec(encoder)],
    )


def _import(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"--formats=onnx needs {name} ({error}); pip install -r "
            "requirements-onnx.txt."
        ) from error
