"""Optimizers by name, and their reset at the start of a round."""

import tensorflow as tf

from xdc_tf import compat

OPTIMIZERS = ("sgd", "lamb")


def make(
    name: str,
    variables: list[tf.Variable],
    *,
    momentum: float,
    weight_decay: float,
    scale_loss: bool,
):
    """Makes an optimizer with all its variables built, so that it can be restored.

    Args:
      name: "sgd", with momentum, or "lamb" (You et al. 2020) for large batches.
      variables: what it will update.
      momentum: for sgd.
      weight_decay: for lamb, which adds it to its update; with sgd it is a penalty in
        the layers (models.layers).
      scale_loss: scale the loss dynamically, as float16 needs it.

    Raises:
      ValueError: on an unknown name.
    """
    if name == "sgd":
        optimizer = compat.sgd(momentum=momentum)
    elif name == "lamb":
        optimizer = compat.lamb(weight_decay=weight_decay)
    else:
        raise ValueError(
            f"config.optimizer.name={name!r} is unknown; choose one of "
            f"{', '.join(OPTIMIZERS)}."
        )
    if scale_loss:
        optimizer = compat.loss_scaled(optimizer)
    compat.build_optimizer(optimizer, variables)
    return optimizer


def clear_slots(optimizer) -> None:
    """Sets momenta and other per-weight state to zero."""
    for variable in compat.optimizer_variables(optimizer):
        variable.assign(tf.zeros_like(variable))
