"""Features of a part's clips and rows: means, holes, and what stops with an error."""

import numpy as np
import pytest

from xdc_tf.features.extraction import ClipFeatures, Features
from xdc_tf.inference.new_videos import Row
from xdc_tf.inference.parts import Part, clip_features, mean_features

pytestmark = pytest.mark.once

PART = Part(
    [Row("a", "a", 0, 1), Row("b", "b", 0, None, "no_audio"), Row("c", "c", 0, 1)], ()
)


def _means(values, present):
    features = Features(
        {"video": np.array(values, np.float32)[:, None]}, np.array(present)
    )
    return mean_features(lambda batches, *, num_rows: features, PART)


def _clips(*indices, value=1.0):
    """What clip_features gives for one batch of clips of these rows."""
    clips = ClipFeatures(
        example_index=np.array(indices),
        start_secs=np.zeros(len(indices)),
        streams={"video": np.full([len(indices), 2], value, np.float32)},
    )
    return list(clip_features(lambda batches: [clips], PART))


def test_means_of_quarantined_rows_are_nan():
    found = _means([1, 0, 3], [True, False, True])["video"]
    np.testing.assert_array_equal(found, [[1], [np.nan], [3]])


def test_clips_pass_through():
    (found,) = _clips(0, 0, 2)
    assert found.example_index.tolist() == [0, 0, 2]


@pytest.mark.parametrize(
    ("present", "missed"),
    [([True, False, False], "c"), ([True, True, True], "b")],
)
def test_means_of_other_rows_than_expected_are_an_error(present, missed):
    with pytest.raises(ValueError, match=f"^{missed} is the first of . rows, of 3,"):
        _means([1, 1, 1], present)


@pytest.mark.parametrize(("indices", "missed"), [([0, 0], "c"), ([0, 1, 2], "b")])
def test_clips_of_other_rows_than_expected_are_an_error(indices, missed):
    with pytest.raises(ValueError, match=f"^{missed} is the first of . rows, of 3,"):
        _clips(*indices)


def test_features_that_are_not_finite_are_an_error_that_names_the_row():
    with pytest.raises(FloatingPointError, match="video encoder .* first for c;"):
        _means([1, 0, np.inf], [True, False, True])
    with pytest.raises(FloatingPointError, match="video encoder .* first for a;"):
        _clips(0, 2, value=np.nan)
