"""Optimizers by name, and their reset at the start of a round.

LARS and LAMB are defined here, as pure functions of one weight, so that both
generations of Keras compute the same. Both scale a weight's update to the weight's own
length, except for biases and the parameters of batch norm, which are neither scaled nor
decayed: all weights of fewer than two dimensions.
"""

import functools

import tensorflow as tf

from xdc_tf.runtime import compat

OPTIMIZERS = ("sgd", "lars", "lamb")
# These decay the weights themselves; with sgd it is a penalty in the layers.
DECAYING = ("lars", "lamb")
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-6  # of LAMB


def make(
    name: str,
    variables: list[tf.Variable],
    *,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float = 0.001,
    scale_loss: bool,
):
    """Makes an optimizer with all its variables built, so that it can be restored.

    Call it under the scope of the strategy of the variables.

    Args:
      name: "sgd", with momentum; for large batches "lars" (You et al. 2017) or "lamb"
        (You et al. 2020).
      variables: what it will update.
      momentum: for sgd and lars.
      weight_decay: for lars and lamb, which add it to their updates; with sgd it is a
        penalty in the layers (models.layers).
      trust_coefficient: for lars: length of a step of learning rate 1 by that of the
        weight.
      scale_loss: scale the loss dynamically, as float16 needs it.

    Raises:
      ValueError: on an unknown name.
    """
    if name == "sgd":
        optimizer = compat.sgd(momentum=momentum)
    elif name == "lars":
        update = functools.partial(
            lars,
            momentum=momentum,
            weight_decay=weight_decay,
            trust_coefficient=trust_coefficient,
        )
        optimizer = compat.SlotOptimizer(update, slots=("velocity",), name=name)
    elif name == "lamb":
        optimizer = compat.SlotOptimizer(
            functools.partial(lamb, weight_decay=weight_decay),
            slots=("mean", "square"),
            scalar_slots=("age",),
            name=name,
        )
    else:
        raise ValueError(
            f"config.optimizer.name={name!r} is unknown; choose one of "
            f"{', '.join(OPTIMIZERS)}."
        )
    if scale_loss:
        optimizer = compat.loss_scaled(optimizer)
    optimizer.build(variables)
    return optimizer


def lars(
    weight: tf.Tensor,
    gradient: tf.Tensor,
    slots: dict[str, tf.Tensor],
    rate: tf.Tensor,
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
      momentum: m.
      weight_decay: d.
      trust_coefficient: length of a step of rate 1 by that of the weight.

    Returns:
      The new weight w - v, and {"velocity": v}.
    """
    change = gradient
    if _is_scaled(weight):
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
      weight_decay: fraction of the weight that is added to its change.

    Returns:
      The new weight, and "mean" and "square" of gradients with their "age" in steps.
    """
    age = slots["age"] + 1.0
    mean = _BETA_1 * slots["mean"] + (1 - _BETA_1) * gradient
    square = _BETA_2 * slots["square"] + (1 - _BETA_2) * gradient**2
    deviation = tf.sqrt(square / (1 - _BETA_2**age))
    change = mean / (1 - _BETA_1**age) / (deviation + _EPSILON)
    if _is_scaled(weight):
        change += weight_decay * weight
        change *= _ratio(tf.norm(weight), tf.norm(change))
    return weight - rate * change, {"mean": mean, "square": square, "age": age}


def _is_scaled(weight: tf.Tensor) -> bool:
    return weight.shape.rank > 1


def _ratio(length: tf.Tensor, of_change: tf.Tensor) -> tf.Tensor:
    """The trust ratio; 1 for a weight, or a change, that is zero."""
    return tf.where((length > 0) & (of_change > 0), length / of_change, 1.0)


def clear_slots(optimizer) -> None:
    """Sets momenta and other per-weight state to zero."""
    for variable in compat.optimizer_variables(optimizer):
        variable.assign(tf.zeros_like(variable))
