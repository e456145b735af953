"""Features of a part of new videos: of each clip, or the means over a row's clips."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from xdc_tf.data.example_tables import EXAMPLES_FILE, QUARANTINE_FILE
from xdc_tf.features.extraction import ClipFeatures
from xdc_tf.inference.new_videos import Row
from xdc_tf.inference.parts import Part


def clip_features(extract_clips: Callable, part: Part) -> Iterator[ClipFeatures]:
    """The features of each clip of a part, in order, a batch at a time.

    Args:
      extract_clips: of features.extraction.make_extract_clips.
      part: of `parts`.

    Raises:
      ValueError: if the records do not hold the rows that they should.
      FloatingPointError: on features that are not finite.
    """
    present = np.zeros([len(part.rows)], bool)
    for clips in extract_clips(part.batches):
        present[clips.example_index] = True
        if any(part.rows[index].reason for index in clips.example_index):
            break  # no quarantined row has clips
        for stream, features in clips.streams.items():
            _check_finite(stream, features, [part.rows[i] for i in clips.example_index])
        yield clips
    _check_complete(part, present)


def mean_features(extract: Callable, part: Part) -> dict[str, np.ndarray]:
    """The mean over a row's clips: by stream [rows, D] float32, NaN if quarantined.

    Args:
      extract: of features.extraction.make_extract.
      part: of `parts`.

    Raises:
      ValueError: if the records do not hold the rows that they should.
      FloatingPointError: on features that are not finite.
    """
    features = extract(part.batches, num_rows=len(part.rows))
    _check_complete(part, features.present)
    for stream, rows in features.streams.items():
        _check_finite(stream, rows, part.rows)
        rows[~features.present] = np.nan
    return features.streams


def _check_complete(part: Part, present: np.ndarray) -> None:
    usable = np.array([not row.reason for row in part.rows], bool)
    wrong = np.flatnonzero(present != usable)
    if len(wrong):
        first = part.rows[wrong[0]]
        raise ValueError(
            f"{first.video_id or first.path} is the first of {len(wrong)} rows, of "
            f"{len(part.rows)}, for which the records do not hold what "
            f"{EXAMPLES_FILE} and {QUARANTINE_FILE} beside them say; convert again."
        )


def _check_finite(stream: str, features: np.ndarray, rows: Sequence[Row]) -> None:
    """Checks [rows, D] features."""
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        raise FloatingPointError(
            f"the {stream} encoder gives features that are not finite, first for "
            f"{rows[np.argmin(finite)].video_id}; use encoders of a run that did not "
            "diverge."
        )
