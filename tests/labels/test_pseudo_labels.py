import numpy as np
import pytest

from xdc_tf.features.extraction import Features
from xdc_tf.labels import pseudo_labels
from xdc_tf.labels.label_makers import nearest as find_nearest
from xdc_tf.labels.pseudo_labels import KMeansSettings

pytestmark = pytest.mark.once

NUM_ROWS = 60
ABSENT = [7, 31, 59]
HELD_OUT = [0, 3, 10, 11, 44, 58]
SETTINGS = KMeansSettings(num_clusters=5, num_iterations=10)


@pytest.fixture(scope="module")
def features():
    """Random features of two streams; rows without an example are zero."""
    rng = np.random.default_rng(0)
    present = np.ones(NUM_ROWS, bool)
    present[ABSENT] = False
    streams = {
        "video": rng.normal(size=(NUM_ROWS, 6)).astype(np.float32),
        # As wide as the other, so that a fit is traced once for both.
        "audio": 100 * rng.normal(size=(NUM_ROWS, 6)).astype(np.float32),
    }
    return Features(
        {name: rows * present[:, None] for name, rows in streams.items()}, present
    )


@pytest.fixture(scope="module")
def fitted_rows():
    fitted = np.ones(NUM_ROWS, bool)
    # Absent rows count as fitted here, as a caller's mask may have them.
    fitted[HELD_OUT] = False
    return fitted


def cluster(features, sources, fitted_rows, *, seed=0, **arguments):
    arguments = {"settings": SETTINGS} | arguments
    return pseudo_labels.cluster(
        features, sources, fitted_rows=fitted_rows, seed=seed, **arguments
    )


@pytest.fixture(scope="module")
def clusterings(features, fitted_rows):
    """Of each stream alone."""
    return cluster(features, {"video": ("video",), "audio": ("audio",)}, fitted_rows)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def nearest(rows, centroids):
    return np.argmin(((rows[:, None] - centroids) ** 2).sum(-1), axis=1)


def test_rows_without_an_example_get_no_label(clusterings):
    labels = clusterings["audio"].labels
    assert labels.dtype == np.int32
    assert np.flatnonzero(labels == -1).tolist() == ABSENT


@pytest.mark.parametrize("stream", ["video", "audio"])
def test_every_example_held_out_or_not_has_the_label_of_its_nearest_centroid(
    features, clusterings, stream
):
    clustering = clusterings[stream]
    rows = unit(features.streams[stream][features.present])
    np.testing.assert_array_equal(
        clustering.labels[features.present], nearest(rows, clustering.centroids)
    )


def test_held_out_rows_do_not_move_the_centroids(features, fitted_rows, clusterings):
    clustering = clusterings["video"]
    assert clustering.sizes.sum() == NUM_ROWS - len(ABSENT) - len(HELD_OUT)
    changed = features.streams["video"].copy()
    changed[HELD_OUT] = 1000.0
    other = cluster(
        features._replace(streams={"video": changed}),
        {"video": ("video",)},
        fitted_rows,
    )["video"]
    np.testing.assert_array_equal(other.centroids, clustering.centroids)


def test_sizes_and_inertia_are_those_of_the_fitted_rows(
    features, fitted_rows, clusterings
):
    clustering = clusterings["video"]
    fitted = fitted_rows & features.present
    labels = clustering.labels[fitted]
    np.testing.assert_array_equal(clustering.sizes, np.bincount(labels, minlength=5))
    rows = unit(features.streams["video"][fitted])
    inertia = ((rows - clustering.centroids[labels]) ** 2).sum()
    assert clustering.inertia == pytest.approx(inertia, rel=1e-4)


def test_each_source_clusters_its_own_stream(clusterings):
    assert list(clusterings) == ["video", "audio"]
    video, audio = (clusterings[name].centroids for name in ("video", "audio"))
    assert video.shape == audio.shape == (5, 6)
    assert not np.array_equal(video, audio)


def test_joint_features_are_both_streams_scaled_to_length_one_side_by_side():
    video = np.array([[3.0, 4.0], [0.0, 0.5]])
    audio = np.array([[0.0, -200.0, 0.0], [1.0, 2.0, 2.0]])
    np.testing.assert_allclose(
        pseudo_labels.side_by_side([video, audio]),
        [[0.6, 0.8, 0.0, -1.0, 0.0], [0.0, 1.0, 1 / 3, 2 / 3, 2 / 3]],
    )


def test_an_all_zero_row_stays_zero_side_by_side():
    joint = pseudo_labels.side_by_side([np.zeros((1, 2)), np.array([[3.0, 4.0]])])
    np.testing.assert_allclose(joint, [[0.0, 0.0, 0.6, 0.8]])


def test_one_stream_is_clustered_as_it_is():
    rows = np.array([[3.0, 4.0]])
    np.testing.assert_array_equal(pseudo_labels.side_by_side([rows]), rows)


def test_a_joint_clustering_labels_by_the_joint_features(features, fitted_rows):
    clustering = cluster(features, {"joint": ("video", "audio")}, fitted_rows)["joint"]
    present = features.present
    joint = np.concatenate(
        [unit(features.streams[name][present]) for name in ("video", "audio")], axis=1
    )
    # k-means scales them again: both halves of length one are sqrt(2) long together.
    rows = joint / np.sqrt(2)
    np.testing.assert_array_equal(
        clustering.labels[present], nearest(rows, clustering.centroids)
    )


def test_a_clustering_follows_from_the_seed(features, fitted_rows, clusterings):
    one = clusterings["video"]
    same, other = (
        cluster(features, {"video": ("video",)}, fitted_rows, seed=seed)["video"]
        for seed in (0, 1)
    )
    np.testing.assert_array_equal(one.labels, same.labels)
    np.testing.assert_array_equal(one.centroids, same.centroids)
    assert not np.array_equal(one.centroids, other.centroids)


def test_sources_of_the_same_features_start_from_different_centroids(
    features, fitted_rows
):
    settings = SETTINGS._replace(num_iterations=1)
    one, other = cluster(
        features, {"a": ("video",), "b": ("video",)}, fitted_rows, settings=settings
    ).values()
    assert not np.array_equal(one.centroids, other.centroids)


def test_settings_reach_k_means(features, fitted_rows):
    settings = SETTINGS._replace(num_clusters=3, normalize=False, pca_components=2)
    clustering = cluster(
        features, {"video": ("video",)}, fitted_rows, settings=settings
    )["video"]
    assert clustering.centroids.shape == (3, 2)
    assert clustering.normalize is False
    rows = features.streams["video"][features.present]
    projected = (rows - clustering.pca_mean) @ clustering.pca_projection
    np.testing.assert_array_equal(
        clustering.labels[features.present], nearest(projected, clustering.centroids)
    )


def test_two_devices_give_the_labels_of_one(
    features, fitted_rows, clusterings, two_devices
):
    of_two = cluster(features, {"video": ("video",)}, fitted_rows, strategy=two_devices)
    np.testing.assert_array_equal(clusterings["video"].labels, of_two["video"].labels)


def test_every_source_has_as_many_clusterings_as_heads(
    features, fitted_rows, clusterings
):
    heads = cluster(
        features,
        {"video": ("video",), "audio": ("audio",)},
        fitted_rows,
        settings=SETTINGS._replace(num_heads=2),
    )
    assert list(heads) == ["video", "video-1", "audio", "audio-1"]
    np.testing.assert_array_equal(heads["audio"].labels, clusterings["audio"].labels)
    assert not np.array_equal(heads["audio"].labels, heads["audio-1"].labels)


def in_files(features, directory):
    """The same features as the read-only maps of a feature store."""
    streams = {}
    for name, rows in features.streams.items():
        np.save(directory / f"{name}.npy", rows)
        streams[name] = np.load(directory / f"{name}.npy", mmap_mode="r")
    return features._replace(streams=streams)


@pytest.mark.parametrize("memory_gib", [0.0, 1.0])
def test_features_in_files_are_clustered_as_in_memory(
    features, fitted_rows, clusterings, tmp_path, memory_gib
):
    of_files = cluster(
        in_files(features, tmp_path),
        {"video": ("video",)},
        fitted_rows,
        settings=SETTINGS._replace(memory_gib=memory_gib),
    )
    np.testing.assert_array_equal(of_files["video"].labels, clusterings["video"].labels)


def test_joint_features_beyond_the_memory_are_joined_in_a_file(
    features, fitted_rows, tmp_path
):
    sources = {"joint": ("video", "audio")}
    in_memory = cluster(features, sources, fitted_rows)["joint"]
    of_files = cluster(
        in_files(features, tmp_path),
        sources,
        fitted_rows,
        settings=SETTINGS._replace(memory_gib=0.0),
    )["joint"]
    np.testing.assert_array_equal(of_files.labels, in_memory.labels)
    assert np.load(tmp_path / "joined.npy").shape == (NUM_ROWS, 12)


def test_a_balanced_clustering_keeps_what_labels_further_rows(features, fitted_rows):
    settings = SETTINGS._replace(balanced=True)
    clustering = cluster(
        features, {"video": ("video",)}, fitted_rows, settings=settings
    )["video"]
    rows = unit(features.streams["video"][features.present])
    distances = ((rows[:, None] - clustering.centroids) ** 2).sum(-1)
    np.testing.assert_array_equal(
        clustering.labels[features.present],
        np.argmin(distances - clustering.offsets, axis=1),
    )
    found = find_nearest(features.streams["video"][features.present], clustering)
    np.testing.assert_array_equal(found.cluster, clustering.labels[features.present])


def test_an_error_about_a_setting_names_its_key(features, fitted_rows):
    settings = SETTINGS._replace(num_clusters=NUM_ROWS + 1)
    with pytest.raises(ValueError, match="key is config.kmeans.num_clusters"):
        cluster(features, {"video": ("video",)}, fitted_rows, settings=settings)


def test_heads_may_differ_in_their_number_of_clusters(features, fitted_rows):
    sources = {"video": ("video",), "audio": ("audio",)}
    found = pseudo_labels.cluster(
        features,
        sources,
        fitted_rows=fitted_rows,
        settings=SETTINGS._replace(head_clusters=(5, 3, 8)),
        seed=1,
    )
    assert {name: len(c.centroids) for name, c in found.items()} == {
        **{"video": 5, "video-1": 3, "video-2": 8},
        **{"audio": 5, "audio-1": 3, "audio-2": 8},
    }
    alone = pseudo_labels.cluster(
        features, sources, fitted_rows=fitted_rows, settings=SETTINGS, seed=1
    )
    for source in sources:
        np.testing.assert_array_equal(found[source].labels, alone[source].labels)
        assert found[f"{source}-2"].labels[fitted_rows].max() == 7


def test_more_clusters_of_a_head_than_rows_are_refused_by_the_key(
    features, fitted_rows
):
    with pytest.raises(ValueError, match=r"config\.kmeans\.head_clusters"):
        pseudo_labels.cluster(
            features,
            {"video": ("video",)},
            fitted_rows=fitted_rows,
            settings=SETTINGS._replace(head_clusters=(5, NUM_ROWS + 1)),
            seed=1,
        )
