"""Files of tensors through PyTorch's own reader, where PyTorch is installed."""

import pickle
from typing import Any

from xdc_tf.runtime import files


def read(path: str) -> Any:
    """Reads a file with torch.load(weights_only=True), on the CPU.

    Returns:
      As `torch_files.read` does.

    Raises:
      FileNotFoundError: if there is no such file.
      ImportError: if PyTorch is not installed.
      ValueError: if PyTorch refuses the file, or a tensor has no counterpart in NumPy.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} was to be read with PyTorch, which is not installed; install it "
            "or use this project's own reader."
        ) from error
    try:
        with files.open_regular(path) as file:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
        return _converted(loaded, torch, {})
    except FileNotFoundError:
        raise
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        # Its advice around the reason is to trust the file.
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].split("\n")[0]
        raise ValueError(f"{path}: PyTorch does not read it: {reason}") from error


def _converted(value: Any, torch: Any, done: dict[int, Any]) -> Any:
    """A value with arrays for tensors, and text for PyTorch's other things.

    Args:
      value: of torch.load.
      torch: the module.
      done: id of each container met so far -> its conversion, since containers can be
        shared.
    """
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, torch.Tensor):
        tensor = value.detach()
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.float()
        array = tensor.numpy()
        array.flags.writeable = False
        return array
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value).removeprefix("torch.")
    if isinstance(value, dict):
        converted: Any = done.setdefault(id(value), {})
        for key, item in value.items():
            converted[key] = _converted(item, torch, done)
        return converted
    if isinstance(value, list):
        converted = done.setdefault(id(value), [])
        converted.extend(_converted(item, torch, done) for item in value)
        return converted
    if isinstance(value, tuple):
        converted = tuple(_converted(item, torch, done) for item in value)
        return done.setdefault(id(value), converted)
    return value
