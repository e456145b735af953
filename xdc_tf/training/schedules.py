"""The learning rate over a round.

Imports no TensorFlow: recipes of finetuning are made of the names while flags are
parsed, and `--help` answers at once.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

# Of the learning rate over a round, after a linear warm-up.
SCHEDULES = ("constant", "cosine", "steps")


class Schedule(NamedTuple):
    """Shape of a round's learning rate.

    Attributes:
      name: one of SCHEDULES.
      peak: value after the warm-up, for the whole batch.
      warmup_steps: steps of linear growth from peak / warmup_steps (Goyal et al. 2017).
      decay_shares: for "steps": shares of the round, each in (0, 1).
      decay_factor: for "steps": the factor at each of them.
    """

    name: str
    peak: float
    warmup_steps: int
    decay_shares: Sequence[float] = ()
    decay_factor: float = 0.1


def learning_rate(schedule: Schedule, step: int, num_steps: int) -> float:
    """Value at a step of a round.

    Args:
      schedule: its shape.
      step: counted from 0 at the start of the round.
      num_steps: steps in the round.
    """
    if step < schedule.warmup_steps:
        return schedule.peak * (step + 1) / schedule.warmup_steps
    if schedule.name == "cosine":
        share = (step - schedule.warmup_steps) / max(
            num_steps - schedule.warmup_steps, 1
        )
        return schedule.peak * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    if schedule.name == "steps":
        passed = sum(step >= share * num_steps for share in schedule.decay_shares)
        return schedule.peak * schedule.decay_factor**passed
    return schedule.peak
