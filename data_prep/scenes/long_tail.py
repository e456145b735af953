"""A long tail: a few classes are most of the videos, and four have one side only.

Pictures and sounds are those of `shapes`. Eight classes are seen and heard; rings are
seen only, and there is the room's noise to hear; hisses are heard only, and there is a
background to see. The frequency of class number r is in proportion to 1 / (r + 1)
(Zipf), so that the first is a third of the videos and the last a fortieth.
"""

from typing import NamedTuple

import numpy as np

from data_prep.scenes import shapes


class _Class(NamedTuple):
    """A class's name, and what it has of the classes of `shapes`."""

    label: str
    seen: str | None
    heard: str | None


def _both(name: str) -> _Class:
    return _Class(name, name, name)


# The most frequent first.
_CLASSES = (
    _both("disc_sway"),
    _both("square_pulse"),
    _Class("silent_ring_sway", "ring_sway", None),
    _both("triangle_sway"),
    _both("cross_pulse"),
    _Class("unseen_hiss_staccato", None, "ring_pulse"),
    _both("disc_pulse"),
    _both("square_sway"),
    _both("triangle_pulse"),
    _Class("unseen_hiss_held", None, "ring_sway"),
    _both("cross_sway"),
    _Class("silent_ring_pulse", "ring_pulse", None),
)
LABELS = tuple(row.label for row in _CLASSES)
_INVERSE_RANKS = 1 / np.arange(1, len(LABELS) + 1)
FREQUENCIES = tuple(_INVERSE_RANKS / _INVERSE_RANKS.sum())


def _index(name: str | None) -> int | None:
    return None if name is None else shapes.LABELS.index(name)


def draw_frames(
    class_index: int, rng: np.random.Generator, *, num_frames: int, size: int
) -> np.ndarray:
    """Draws the frames of one video of a class of LABELS; see shapes.draw_frames."""
    seen = _index(_CLASSES[class_index].seen)
    return shapes.draw_frames(seen, rng, num_frames=num_frames, size=size)


def synthesize_waveform(
    class_index: int,
    rng: np.random.Generator,
    *,
    num_samples: int,
    microphone_db: float = shapes.MICROPHONE_DB,
) -> np.ndarray:
    """Synthesises the audio of one video of a class of LABELS; see shapes."""
    return shapes.synthesize_waveform(
        _index(_CLASSES[class_index].heard),
        rng,
        num_samples=num_samples,
        microphone_db=microphone_db,
    )
