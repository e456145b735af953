"""The kinds of the synthetic benchmark: what a video of a class shows and sounds like.

A kind is a module of this package and a row of KINDS.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data_prep.scenes import clutter, digits, long_tail, several, shapes


class Kind(NamedTuple):
    """A kind of videos.

    Attributes:
      labels: names of the classes.
      draw_frames: of (class_index, rng, num_frames=, size=), [num_frames, size, size,
        3] uint8 at shapes.FPS frames per second.
      synthesize_waveform: of (class_index, rng, num_samples=, microphone_db=),
        [num_samples] float32 in [-1, 1] at shapes.SAMPLE_RATE_HZ.
      frequencies: of the classes; None where they take turns, so that every prefix of a
        set is balanced.
      shared: fraction of the videos whose audio has the frames' class, where nothing
        else is asked for.
      several_labels: whether a video may have several labels, which a name of a class
        then is made of, see xdc_tf.data.label_texts.
      num_parts: into which the kind's material is divided: draw_frames takes part=, the
        remainder of the set's seed by this number. 1 where nothing is reused.
    """

    labels: tuple[str, ...]
    draw_frames: Callable[..., np.ndarray]
    synthesize_waveform: Callable[..., np.ndarray]
    frequencies: tuple[float, ...] | None = None
    shared: float = 1.0
    several_labels: bool = False
    num_parts: int = 1


KINDS = {
    "shapes": Kind(shapes.LABELS, shapes.draw_frames, shapes.synthesize_waveform),
    "clutter": Kind(clutter.LABELS, clutter.draw_frames, clutter.synthesize_waveform),
    "digits": Kind(
        digits.LABELS,
        digits.draw_frames,
        digits.synthesize_waveform,
        shared=digits.SHARED,
        num_parts=digits.NUM_PARTS,
    ),
    "long_tail": Kind(
        long_tail.LABELS,
        long_tail.draw_frames,
        long_tail.synthesize_waveform,
        frequencies=long_tail.FREQUENCIES,
    ),
    "several": Kind(
        several.LABELS,
        several.draw_frames,
        several.synthesize_waveform,
        frequencies=several.FREQUENCIES,
        several_labels=True,
    ),
}
