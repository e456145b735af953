"""Optimizers by name, and their reset at the start of a round.

All but plain SGD are defined here, as pure functions of one weight, so that both
generations of Keras compute the same. LARS and LAMB scale a weight's update to the
weight's own length. Biases and the parameters of norms are neither scaled nor decayed.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tensorflow as tf

from xdc_tf.runtime import compat
from xdc_tf.runtime.typed_settings import Choice, Number, Several, Whole
from xdc_tf.training.schedules import SCHEDULES

OPTIMIZERS = ("sgd", "adamw", "lars", "lamb")
# These decay the weights themselves; with sgd it is a penalty in the layers.
DECAYING = ("adamw", "lars", "lamb")
_BETA_1, _BETA_2 = 0.9, 0.999  # of AdamW and LAMB
_ADAMW_EPSILON, _LAMB_EPSILON = 1e-8, 1e-6


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer and its learning rate over a round."""

    # adamw: for transformers; lars, lamb: for large batches.
    name: Annotated[str, Choice(OPTIMIZERS)] = "sgd"
    # For the whole batch, or for reference_batch_size.
    learning_rate: Annotated[float, Number(0, 1e4)] = 0.01
    # 0, or the batch that learning_rate is stated for; the rate then grows with
    # training.batch_size in proportion (Goyal et al. 2017).
    reference_batch_size: Annotated[int, Whole()] = 0
    momentum: Annotated[float, Number(0, 1, below=True)] = 0.9  # of sgd and lars
    # Of lars: a step's length by the weight's.
    trust_coefficient: Annotated[float, Number(0, 1e4)] = 0.001
    weight_decay: Annotated[float, Number(0, 1e4)] = 1e-4
    # The learning rate of a stage of an encoder, of a transformer's block, by that of
    # the one above; the heads and the top stage have all of it.
    layer_decay: Annotated[float, Number(0, 1, above=True)] = 1.0
    # Most length of all gradients together, which are scaled down to it; 0: any.
    clip_norm: Annotated[float, Number(0, 1e9)] = 0.0
    warmup_steps: Annotated[int, Whole()] = 100  # in every round
    schedule: Annotated[str, Choice(tuple(SCHEDULES))] = "cosine"
    # For "steps": learning rate x decay_factor at these fractions of a round.
    decay_shares: Annotated[
        tuple[float, ...], Several(Number(0, 1, above=True, below=True))
    ] = (0.5, 0.75)
    decay_factor: Annotated[float, Number(0, 1e4)] = 0.1


def make(
    name: str,
    variables: list[tf.Variable],
    *,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float = 0.001,
    rates: Sequence[float] | tf.Variable | None = None,
    scale_loss: bool,
):
    """Makes an optimizer with all its variables built, so that it can be restored.

    Call it under the scope of the strategy of the variables.

    Args:
      name: "sgd", with momentum; "adamw" (Loshchilov and Hutter 2019); for large
        batches "lars" (You et al. 2017) or "lamb" (You et al. 2020).
      variables: what it will update.
      momentum: for sgd and lars.
      weight_decay: for all but sgd, where it is a penalty in the layers
        (models.layers).
      trust_coefficient: for lars: length of a step of learning rate 1 by that of the
        weight.
      rates: for each variable what the learning rate is multiplied with, numbers or a
        variable of them, [number of variables]; None for 1.
      scale_loss: scale the loss dynamically, as float16 needs it.

    Raises:
      ValueError: on an unknown name.
    """
    slots: tuple[str, ...] = ("mean", "square")
    ages: tuple[str, ...] = ("age",)
    if name == "sgd":
        slots, ages = ("velocity",), ()
        update = functools.partial(sgd, momentum=momentum)
    elif name == "adamw":
        update = functools.partial(adamw, weight_decay=weight_decay)
    elif name == "lars":
        slots, ages = ("velocity",), ()
        update = functools.partial(
            lars,
            momentum=momentum,
            weight_decay=weight_decay,
            trust_coefficient=trust_coefficient,
        )
    elif name == "lamb":
        update = functools.partial(lamb, weight_decay=weight_decay)
    else:
        raise ValueError(
            f"config.optimizer.name={name!r} is unknown; choose one of "
            f"{', '.join(OPTIMIZERS)}."
        )
    if name == "sgd" and rates is None:
        optimizer = compat.sgd(momentum=momentum)
    else:
        optimizer = compat.SlotOptimizer(
            update, slots=slots, scalar_slots=ages, rates=rates, name=name
        )
    if scale_loss:
        optimizer = compat.loss_scaled(optimizer)
    optimizer.build(variables)
    return optimizer


def sgd(
    weight: tf.Tensor,
    gradient: tf.Tensor,
    slots: dict[str, tf.Tensor],
    rate: tf.Tensor,
    is_kernel: bool,
    *,
    momentum: float,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """One step of SGD as Keras has it: v = m v - rate g; see `lars`."""
    del is_kernel
    velocity = momentum * slots["velocity"] - rate * gradient
    return weight + velocity, {"velocity": velocity}


def adamw(
    weight: tf.Tensor,
    gradient: tf.Tensor,
    slots: dict[str, tf.Tensor],
    rate: tf.Tensor,
    is_kernel: bool,
    *,
    weight_decay: float,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """One step of Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    A kernel decays by rate * weight_decay of itself. For arguments and results see
    `lamb`.
    """
    change, slots = _adam_change(gradient, slots, epsilon=_ADAMW_EPSILON)
    if is_kernel:
        change += weight_decay * weight
    return weight - rate * change, slots


def lars(
    weight: tf.Tensor,
    gradient: tf.Tensor,
    slots: dict[str, tf.Tensor],
    rate: tf.Tensor,
    is_kernel: bool,
    *,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """One step of LARS (You et al. 2017, algorithm 1): v = m v + rate ratio (g + d w).

    Args:
      weight: w, of any shape.
      gradient: g, of the weight's shape.
      slots: {"velocity": v}, of the weight's shape.
      rate: [] learning rate.
      is_kernel: whether the step is scaled and the weight decays.
      momentum: m.
      weight_decay: d.
      trust_coefficient: length of a step of rate 1 by that of the weight.

    Returns:
      The new weight w - v, and {"velocity": v}.
    """
    change = gradient
    if is_kernel:
        lengths = tf.norm(gradient) + weight_decay * tf.norm(weight)
        ratio = _ratio(trust_coefficient * tf.norm(weight), lengths)
        change = ratio * (gradient + weight_decay * weight)
    velocity = momentum * slots["velocity"] + rate * change
    return weight - velocity, {"velocity": velocity}


def lamb(
    weight: tf.Tensor,
    gradient: tf.Tensor,
    slots: dict[str, tf.Tensor],
    rate: tf.Tensor,
    is_kernel: bool,
    *,
    weight_decay: float,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """One step of LAMB (You et al. 2020, algorithm 2), the decay within the ratio.

    The age of the moments is a slot, so that moments which are set to zero for a new
    round are corrected for their bias as those of a new run.

    Args:
      weight: of any shape.
      gradient: of the weight's shape.
      slots: "mean" and "square", of the weight's shape, and their "age", [].
      rate: [] learning rate.
      is_kernel: whether the weight decays and its change is scaled.
      weight_decay: fraction of the weight that is added to its change.

    Returns:
      The new weight, and "mean" and "square" of gradients with their "age" in steps.
    """
    change, slots = _adam_change(gradient, slots, epsilon=_LAMB_EPSILON)
    if is_kernel:
        change += weight_decay * weight
        change *= _ratio(tf.norm(weight), tf.norm(change))
    return weight - rate * change, slots


def _adam_change(gradient, slots, *, epsilon):
    """Mean of gradients by the root of that of their squares, and the new slots."""
    age = slots["age"] + 1.0
    mean = _BETA_1 * slots["mean"] + (1 - _BETA_1) * gradient
    square = _BETA_2 * slots["square"] + (1 - _BETA_2) * gradient**2
    deviation = tf.sqrt(square / (1 - _BETA_2**age))
    change = mean / (1 - _BETA_1**age) / (deviation + epsilon)
    return change, {"mean": mean, "square": square, "age": age}


def _ratio(length: tf.Tensor, of_change: tf.Tensor) -> tf.Tensor:
    """The trust ratio; 1 for a weight, or a change, that is zero."""
    return tf.where((length > 0) & (of_change > 0), length / of_change, 1.0)


def clear_slots(optimizer) -> None:
    """Sets momenta and other per-weight state to zero."""
    for variable in compat.optimizer_variables(optimizer):
        variable.assign(tf.zeros_like(variable))
