"""Strengths of the random changes of training clips; see augment.

Imports no TensorFlow, so that a recipe that lists them is read at once.
"""

from typing import Annotated, NamedTuple

from xdc_tf.runtime.typed_settings import FLAG, FRACTION, Number, Whole


class Augmentation(NamedTuple):
    """Strengths; zero switches a change off.

    Attributes:
      min_crop_share: lower end of the crop's side by the frame's short side; the upper
        end is ClipSettings.crop_share. Zero means no change of scale.
      flip: whether half of the clips are mirrored left to right.
      brightness: factor drawn from [1 - x, 1 + x], the same for a clip's frames.
      contrast: the same around the clip's mean grey.
      saturation: the same around each pixel's grey.
      gain_db: loudness changed by up to +-x dB.
      frequency_mask: up to x neighbouring filters are blanked (SpecAugment).
      time_mask: up to x neighbouring rows are blanked (SpecAugment).
    """

    min_crop_share: Annotated[float, FRACTION] = 0.0
    flip: Annotated[bool, FLAG] = True
    brightness: Annotated[float, FRACTION] = 0.0
    contrast: Annotated[float, FRACTION] = 0.0
    saturation: Annotated[float, FRACTION] = 0.0
    gain_db: Annotated[float, Number(0, 200)] = 0.0
    frequency_mask: Annotated[int, Whole(0, 4096)] = 0
    time_mask: Annotated[int, Whole()] = 0
