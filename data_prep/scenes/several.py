"""Several classes at once: up to three of those of `shapes`, as AudioSet has labels.

The picture is a split screen of four scenes, of which each class has one, in any place;
the others are backgrounds. The sounds of all classes are heard together. One, two and
three classes are equally frequent.
"""

import itertools

import numpy as np

from data_prep.scenes import shapes
from xdc_tf.data import label_texts

MOST_CLASSES = 3
# Numbers of classes of `shapes`, by the index of a video's class here.
_SETS = tuple(
    numbers
    for num_classes in range(1, MOST_CLASSES + 1)
    for numbers in itertools.combinations(range(len(shapes.LABELS)), num_classes)
)
LABELS = tuple(
    label_texts.join(tuple(shapes.LABELS[number] for number in numbers))
    for numbers in _SETS
)
_NUM_SETS = np.bincount([len(numbers) for numbers in _SETS])
FREQUENCIES = tuple(1 / MOST_CLASSES / _NUM_SETS[len(numbers)] for numbers in _SETS)


def draw_frames(
    class_index: int, rng: np.random.Generator, *, num_frames: int, size: int
) -> np.ndarray:
    """Draws the frames of one video of a class of LABELS; see shapes.draw_frames."""
    classes: list[int | None] = [*_SETS[class_index]]
    classes += [None] * (4 - len(classes))
    half = size // 2
    frames = np.empty((num_frames, size, size, 3), np.uint8)
    for place, number in enumerate(rng.permutation(4)):
        rows, columns = divmod(place, 2)
        frames[
            :,
            rows * half : (rows + 1) * half,
            columns * half : (columns + 1) * half,
        ] = shapes.draw_frames(classes[number], rng, num_frames=num_frames, size=half)
    return frames


def synthesize_waveform(
    class_index: int,
    rng: np.random.Generator,
    *,
    num_samples: int,
    microphone_db: float = shapes.MICROPHONE_DB,
) -> np.ndarray:
    """Synthesises the audio of one video of a class of LABELS; see shapes."""
    numbers = _SETS[class_index]
    total = sum(
        shapes.synthesize_waveform(
            number, rng, num_samples=num_samples, microphone_db=microphone_db
        )
        for number in numbers
    )
    # About as loud whatever the number of sounds.
    return np.clip(total / np.sqrt(len(numbers)), -1.0, 1.0).astype(np.float32)
