"""What the terminal and TensorBoard are told of a round's clusterings."""

import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.labels import health
from xdc_tf.labels.health import HealthSettings
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.training.monitoring import Monitor


def clustering(labels):
    return Clustering(
        labels=np.array(labels, np.int32),
        centroids=np.zeros([2, 3], np.float32),
        sizes=np.bincount(labels, minlength=2),
        inertia=1.5,
    )


PREVIOUS = {
    "audio": np.array([1, 1, 0, 1]),
    "audio-1": np.array([1, 1, 0, 0]),
    "video": np.full(4, -1),
}
EVEN, UNEVEN = clustering([0, 0, 1, 1]), clustering([0, 0, 0, 0])


@pytest.fixture
def told(tmp_path, capsys):
    """The function (clusterings, round) -> curves, printed lines and warnings."""

    def tell(clusterings, round_index=1):
        found = health.build_report(
            clusterings,
            previous=lambda name: PREVIOUS[name],
            true_labels=np.array([0, 0, 1, -1]),
            settings=HealthSettings(max_cluster_share=0.9),
            round_index=round_index,
        )
        monitor = Monitor(str(tmp_path), num_rounds=3, batch_size=4)
        monitor.clusterings(clusterings, found)
        monitor.close()
        (path,) = tmp_path.iterdir()
        curves = {
            value.tag: (event.step, tf.make_ndarray(value.tensor))
            for event in tf.compat.v1.train.summary_iterator(str(path))
            for value in event.summary.value
        }
        printed = capsys.readouterr()
        return curves, printed.out, printed.err

    return tell


def test_every_measure_is_a_curve_over_rounds(told):
    curves, _, _ = told({"audio": EVEN, "video": UNEVEN})
    assert curves["clusters/audio/churn"] == (1, pytest.approx(0.25))
    assert curves["clusters/audio/inertia"] == (1, 1.5)
    assert curves["clusters/audio/size_median"] == (1, 2)
    assert curves["clusters/audio/purity"] == (1, 1)
    assert curves["clusters/nmi_of_audio_and_video"][0] == 1
    assert "clusters/audio/sizes" in curves
    assert "clusters/video/churn" not in curves


def test_a_collapse_is_a_curve_that_rises_and_a_warning(told):
    curves, _, warning = told({"audio": EVEN, "video": UNEVEN})
    assert curves["clusters/audio/collapsed"] == (1, 0)
    assert curves["clusters/video/collapsed"] == (1, 1)
    assert warning == (
        "warning: Round 2: the clustering video has collapsed: one cluster holds 4 of "
        "4 examples, more than config.health.max_cluster_share=0.9 of them.\n"
    )


def test_healthy_clusterings_are_no_warning(told):
    assert told({"audio": EVEN})[2] == ""


def test_a_line_tells_the_first_heads_main_measures(told):
    _, line, _ = told({"audio": EVEN, "audio-1": EVEN})
    assert line.startswith("round 2/3  clusters  ")
    assert "audio/churn 0.25" in line and "audio/effective_clusters 2" in line
    assert "audio-1" not in line and "size_p05" not in line


def test_the_line_after_the_last_round_says_so(told):
    assert told({"audio": EVEN}, round_index=3)[1].startswith("end  clusters  ")
