"""The one module that knows which TensorFlow generation runs.

The first generation is TensorFlow 2.15 with Keras 2 and tensorflow-io; the second is
TensorFlow 2.21 with Keras 3, where that package no longer imports. Everything else in
the project is written to what both offer.
"""

import importlib
import re
import warnings
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
import tensorflow as tf

KERAS_3: bool = int(keras.__version__.split(".")[0]) >= 3

_PLUGIN_SCHEMES = ("az", "hdfs", "har", "http", "https", "oss", "s3", "viewfs")


def enable_remote_paths(path: str) -> None:
    """Makes `tf.io.gfile` and `tf.data` able to open `path`, or says why they cannot.

    Local paths and `gs://` work on both generations as they are. The first generation
    reads and writes `s3://`, `hdfs://`, `az://` and others once tensorflow-io has
    registered its file-system plugins, which importing it does; that import waits until
    such a path is met, because the plugins make the process abort at exit (see
    `program.run`). The second generation has no such plugins.

    Args:
      path: a local path or a URL; only its scheme matters.

    Raises:
      ValueError: the scheme is unknown, or needs the first generation.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", path)
    if not match or match[1] in ("file", "gs", "ram"):
        return
    if match[1] not in _PLUGIN_SCHEMES:
        raise ValueError(
            f"{path}: unknown file system {match[1]!r}; use a local path, gs:// or one "
            f"of {', '.join(scheme + '://' for scheme in _PLUGIN_SCHEMES)}."
        )
    if KERAS_3:
        raise ValueError(
            f"{path}: {match[1]}:// paths need tensorflow-io, which does not load on "
            f"TensorFlow {tf.__version__}; install requirements.txt with Python 3.10 "
            "or 3.11, or mount or copy the files and give their local path."
        )
    with warnings.catch_warnings():  # of its end of life
        warnings.simplefilter("ignore")
        importlib.import_module("tensorflow_io")


def versions() -> dict[str, str]:
    """Versions of what computes, for reports."""
    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }


def tf_variables(variables: Sequence) -> list[tf.Variable]:
    """The TensorFlow variables behind a model's; Keras 3 wraps them."""
    return [variable.value for variable in variables] if KERAS_3 else list(variables)


def sgd(momentum: float, *, nesterov: bool = False) -> keras.optimizers.Optimizer:
    """SGD: v = momentum * v - rate * gradient; w = w + v. See `set_learning_rate`.

    Keras 2 compiles its update with XLA on GPUs by default; Keras 3 has no such
    argument, and takes nothing but floats.
    """
    arguments = {} if KERAS_3 else {"jit_compile": False}
    return keras.optimizers.SGD(0.0, float(momentum), nesterov=nesterov, **arguments)


class SlotOptimizer(keras.optimizers.Optimizer):
    """A Keras optimizer that is one pure function of a weight and what is kept for it.

    The generations' own optimizers of large batches differ from each other; what is
    made of this computes the same on both. See `set_learning_rate`.
    """

    def __init__(
        self,
        update: Callable[..., tuple[tf.Tensor, dict[str, tf.Tensor]]],
        *,
        slots: Sequence[str],
        scalar_slots: Sequence[str] = (),
        rates: Sequence[float] | tf.Variable | None = None,
        name: str,
    ):
        """Makes an optimizer of learning rate 0; `build` makes its slots.

        Args:
          update: update(weight, gradient, slots, learning_rate, is_kernel) -> the new
            weight and the new slots, tensors of the weight's dtype; slots are by name,
            and zero at first. is_kernel is False for a weight of fewer than two
            dimensions and for one that is called bias.
          slots: names of the slots of the weight's shape.
          scalar_slots: names of the slots that are scalars.
          rates: for each variable what the learning rate is multiplied with, numbers
            or a variable of them; None for 1.
          name: of the optimizer.
        """
        if KERAS_3:
            super().__init__(0.0, name=name)
        else:
            super().__init__(name=name, jit_compile=False)
            self._learning_rate = self._build_learning_rate(0.0)
        self._update = update
        self._slot_names = tuple(slots), tuple(scalar_slots)
        # Behind a function, so that Keras does not take a variable for one of its own.
        self._rate_of = None if rates is None else lambda number: rates[number]
        self._slots_made = False

    def build(self, variables: Sequence) -> None:
        """Makes the slots of all variables."""
        if self._slots_made:
            return
        super().build(variables)
        names, scalar_names = self._slot_names
        slots: dict[str, list] = {name: [] for name in names + scalar_names}
        for variable in variables:
            for name in names:
                # The generations call these arguments differently.
                slots[name].append(self.add_variable_from_reference(variable, name))
            for name in scalar_names:
                slots[name].append(
                    self.add_variable(shape=(), dtype=variable.dtype, name=name)
                )
        self._slots = slots
        self._are_kernels = list(map(_is_kernel, variables))
        self._slots_made = self._built = True

    def update_step(self, gradient, variable, learning_rate=None) -> None:
        """Updates one weight; Keras 2 gives no learning rate."""
        if KERAS_3:
            number = self._get_variable_index(variable)
        else:
            number = self._index_dict[self._var_key(variable)]
            learning_rate = self.learning_rate
        if self._rate_of is not None:
            learning_rate = learning_rate * self._rate_of(number)
        slots = {name: made[number] for name, made in self._slots.items()}
        new, new_slots = self._update(
            tf.convert_to_tensor(variable),
            tf.convert_to_tensor(gradient),
            {name: tf.convert_to_tensor(slot) for name, slot in slots.items()},
            tf.cast(learning_rate, variable.dtype),
            self._are_kernels[number],
        )
        for name, slot in slots.items():
            (slot.value if KERAS_3 else slot).assign(new_slots[name])
        variable.assign(new)


def _is_kernel(variable) -> bool:
    name = variable.name.rpartition("/")[2].partition(":")[0]
    return len(variable.shape) > 1 and name != "bias"


def step_count(optimizer: keras.optimizers.Optimizer) -> tf.Tensor:
    """[] int64, updates since the optimizer was made."""
    return tf.cast(tf.convert_to_tensor(optimizer.iterations), tf.int64)


def loss_scaled(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Wraps an optimizer with dynamic loss scaling, for the mixed_float16 policy.

    Train on `scale_loss(optimizer, loss)` and hand the gradients to `apply_gradients`.
    A step whose gradients are not finite halves the scale and changes no weights; Keras
    2 counts it in `optimizer.iterations`, Keras 3 does not.
    """
    return keras.mixed_precision.LossScaleOptimizer(optimizer)


def scale_loss(optimizer: keras.optimizers.Optimizer, loss: tf.Tensor) -> tf.Tensor:
    """The loss to differentiate: `loss` itself unless the optimizer is `loss_scaled`.

    Keras 2 calls this `get_scaled_loss` and has it on the wrapper alone.
    """
    if not _is_loss_scaled(optimizer):
        return loss
    return optimizer.scale_loss(loss) if KERAS_3 else optimizer.get_scaled_loss(loss)


def loss_scale(optimizer: keras.optimizers.Optimizer) -> tf.Tensor | None:
    """What the loss is multiplied with now; None unless `loss_scaled`."""
    if not _is_loss_scaled(optimizer):
        return None
    scale = optimizer.dynamic_scale if KERAS_3 else optimizer.loss_scale
    return tf.convert_to_tensor(scale, tf.float32)


def optimizer_variables(optimizer: keras.optimizers.Optimizer) -> list[tf.Variable]:
    """The slot variables (momenta, second moments), all zero in a fresh optimizer.

    Without step counts, learning rates and loss scales, which the generations keep in
    different lists.
    """
    inner = _inner_optimizer(optimizer)
    every = inner.variables if KERAS_3 else inner.variables()
    scalars = {id(inner.iterations), id(inner.learning_rate)}
    slots = [variable for variable in every if id(variable) not in scalars]
    return [slot.value for slot in slots] if KERAS_3 else slots


def apply_gradients(
    optimizer: keras.optimizers.Optimizer,
    gradients_and_variables: Iterable[tuple[tf.Tensor, tf.Variable]],
) -> None:
    """Updates the variables with gradients ALREADY summed over the replicas.

    Call it in replica context (inside `strategy.run`). If the optimizer is
    `loss_scaled` the gradients are those of the scaled loss; they are unscaled here.
    Keras 2 can be kept from summing again. Keras 3 cannot: it sums whatever it is
    given, so each replica gives it an equal part of the sum.
    """
    gradients, variables = zip(*gradients_and_variables, strict=True)
    if KERAS_3:
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if replicas > 1:
            gradients = tuple(gradient / replicas for gradient in gradients)
        optimizer.apply(gradients, variables)
        return
    if _is_loss_scaled(optimizer):
        gradients = optimizer.get_unscaled_gradients(gradients)
    optimizer.apply_gradients(
        zip(gradients, variables, strict=True), experimental_aggregate_gradients=False
    )


def set_learning_rate(
    optimizer: keras.optimizers.Optimizer, value: float | tf.Tensor
) -> None:
    """Assigns the learning rate, 0 in a new optimizer; works inside a `tf.function`.

    Call it on a built optimizer in cross-replica context, outside `strategy.run`.
    """
    _inner_optimizer(optimizer).learning_rate.assign(value)


def lost_worker(num_workers: int) -> str | None:
    """Whether a worker of this process's cluster is lost, and how that is known.

    TensorFlow's coordination service knows it, which has no public name in either
    generation. It marks all workers when it has lost one, and does not say which.

    Args:
      num_workers: how many there are.
    """
    from tensorflow.python.eager import context

    try:
        states = context.context().get_task_states([("worker", num_workers)])
    except tf.errors.OpError:
        return "worker 0 cannot be reached"
    return "no heartbeat" if any(error is not None for error in states) else None


def _is_loss_scaled(optimizer: keras.optimizers.Optimizer) -> bool:
    return hasattr(optimizer, "inner_optimizer")


def _inner_optimizer(
    optimizer: keras.optimizers.Optimizer,
) -> keras.optimizers.Optimizer:
    return optimizer.inner_optimizer if _is_loss_scaled(optimizer) else optimizer
