"""An encoder for runtimes other than TensorFlow: TensorFlow Lite and ONNX."""

import importlib
import types

import keras
import numpy as np
import tensorflow as tf

from xdc_tf.export.saved_model import check_features, sample_input

_ONNX_OPSET = 17


def save_tflite(encoder: keras.Model, path: str) -> None:
    """Writes a TensorFlow Lite model, and runs it.

    It takes normalised float32 input like the encoder; its interpreter needs
    the size by `resize_tensor_input`.

    Raises:
      RuntimeError: if its features differ from the encoder's.
    """
    function = _function(encoder)
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
        _function(encoder),
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
