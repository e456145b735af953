"""k-means against scikit-learn, by hand, and across replicas.

A fit is traced once per shape and settings, which takes longer than all that it does
here: where a test leaves it open, its rows are 400 of width 6 in 20 clusters.
"""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from sklearn.cluster import KMeans

from xdc_tf.kmeans import fit_settings, kmeans, lloyd, matrices


def gaussian_rows(num_rows=400, width=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((num_rows, width)).astype(np.float32)


def blobs(num_blobs=20, per_blob=20, width=6, spread=0.1, seed=0):
    """Rows around random centres far apart, and each row's centre."""
    rng = np.random.default_rng(seed)
    centres = 10 * rng.standard_normal((num_blobs, width))
    members = rng.permutation(np.repeat(np.arange(num_blobs), per_blob))
    noise = spread * rng.standard_normal((len(members), width))
    return (centres[members] + noise).astype(np.float32), members


def squared_distances(rows, centroids):
    differences = rows[:, None].astype(np.float64) - centroids[None]
    return (differences**2).sum(axis=2)  # [N, k]


def same_partition(a, b):
    pairs = np.unique(np.stack([a, b]), axis=1).shape[1]
    return pairs == len(np.unique(a)) == len(np.unique(b))


def many_empty_clusters():
    """Rows and initial centroids of which one takes every row."""
    rows = gaussian_rows()
    far = np.random.default_rng(1).uniform(50, 60, (20, 6)).astype(np.float32)
    far[0] = 0
    return rows, far


def fit_plain(rows, **settings):
    settings = {"seed": 0, "normalize": False} | settings
    return kmeans.fit(rows, **settings)


@pytest.mark.parametrize("num_iterations", [1, 300])
def test_iterations_from_given_centroids_are_those_of_scikit_learn(num_iterations):
    rows = gaussian_rows()
    start = rows[:20]
    oracle = KMeans(
        20, init=start, n_init=1, max_iter=num_iterations, tol=0, algorithm="lloyd"
    ).fit(rows)
    result = fit_plain(
        rows, num_clusters=20, num_iterations=num_iterations, initial_centroids=start
    )
    np.testing.assert_array_equal(result.labels, oracle.labels_)
    np.testing.assert_allclose(result.centroids, oracle.cluster_centers_, atol=1e-5)
    np.testing.assert_allclose(result.inertia, oracle.inertia_, rtol=1e-5)


def test_two_points_on_a_line_are_averaged_by_hand():
    rows = np.array([[0.0], [2.0], [10.0], [14.0]], np.float32)
    result = fit_plain(rows, num_clusters=2, initial_centroids=[[0.0], [10.0]])
    np.testing.assert_allclose(result.centroids, [[1.0], [12.0]], atol=1e-5)
    np.testing.assert_array_equal(result.labels, [0, 0, 1, 1])
    np.testing.assert_array_equal(result.sizes, [2, 2])
    # 0 + 4 + 0 + 16 about the first centroids, 1 + 1 + 4 + 4 about the means.
    np.testing.assert_allclose(result.inertia_history, [20.0, 10.0], rtol=1e-5)
    np.testing.assert_allclose(result.inertia, 10.0, rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("normalize", [True, False])
def test_the_objective_never_rises(seed, normalize):
    result = kmeans.fit(
        gaussian_rows(seed=seed), num_clusters=20, seed=seed, normalize=normalize
    )
    objectives = [*result.inertia_history, result.inertia]
    assert len(result.inertia_history) > 1
    assert np.all(np.diff(objectives) <= 1e-5 * objectives[0])


def test_the_objective_never_rises_while_empty_clusters_are_filled():
    rows, start = many_empty_clusters()
    result = fit_plain(rows, num_clusters=20, initial_centroids=start)
    objectives = [*result.inertia_history, result.inertia]
    assert np.all(np.diff(objectives) <= 1e-5 * objectives[0])


def test_every_empty_cluster_is_reseeded():
    rows, start = many_empty_clusters()
    result = fit_plain(rows, num_clusters=20, initial_centroids=start)
    assert result.num_reseeded >= 19
    assert np.all(result.sizes > 0)


def test_an_empty_cluster_moves_to_the_farthest_row():
    rows = np.array([[0.0], [1.0], [2.0], [9.0]], np.float32)
    result = fit_plain(
        rows, num_clusters=2, num_iterations=1, initial_centroids=[[1.0], [100.0]]
    )
    np.testing.assert_allclose(result.centroids, [[1.0], [9.0]], atol=1e-5)
    assert result.num_reseeded == 1


def test_a_row_alone_in_its_cluster_is_not_moved_to_an_empty_one():
    rows = np.array([[0.0], [1.0], [50.0]], np.float32)
    result = fit_plain(
        rows,
        num_clusters=3,
        num_iterations=1,
        initial_centroids=[[0.0], [40.0], [900.0]],
    )
    np.testing.assert_allclose(result.centroids, [[0.0], [50.0], [1.0]], atol=1e-4)


def test_more_clusters_than_distinct_rows_are_refused():
    rows = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    rows[0, 1] = -0.0
    with pytest.raises(ValueError, match="num_clusters=5 exceeds the 3 distinct rows"):
        fit_plain(rows, num_clusters=5)


def test_as_many_clusters_as_distinct_rows_leave_no_distance():
    rows = np.repeat(gaussian_rows(20), 20, axis=0)
    result = fit_plain(rows, num_clusters=20)
    np.testing.assert_array_equal(result.sizes, np.full(20, 20))
    np.testing.assert_allclose(result.inertia, 0.0, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_separated_blobs_are_recovered(seed):
    rows, members = blobs(seed=seed)
    result = fit_plain(rows, num_clusters=20, seed=seed)
    assert same_partition(result.labels, members)


def test_blobs_far_from_the_origin_are_recovered_in_bfloat16():
    rows, members = blobs()
    result = fit_plain(rows + 1000, num_clusters=20, precision="mixed")
    assert same_partition(result.labels, members)


def test_as_many_clusters_as_rows_leaves_no_distance():
    result = fit_plain(gaussian_rows(30), num_clusters=30)
    np.testing.assert_array_equal(result.sizes, np.ones(30))
    np.testing.assert_allclose(result.inertia, 0.0, atol=1e-9)


def test_one_cluster_is_the_mean():
    rows = gaussian_rows()
    result = fit_plain(rows, num_clusters=1)
    np.testing.assert_allclose(result.centroids[0], rows.mean(axis=0), atol=1e-6)


def test_one_row_is_one_cluster():
    result = fit_plain([[3.0, 4.0]], num_clusters=1)
    np.testing.assert_allclose(result.centroids, [[3.0, 4.0]])


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_labels_sizes_and_inertia_belong_to_the_centroids_returned(precision):
    rows = gaussian_rows()
    result = fit_plain(rows, num_clusters=20, precision=precision)
    distances = squared_distances(rows, result.centroids)
    np.testing.assert_array_equal(result.labels, distances.argmin(axis=1))
    np.testing.assert_array_equal(result.sizes, np.bincount(result.labels))
    np.testing.assert_allclose(result.inertia, distances.min(axis=1).sum(), rtol=1e-5)
    assert result.labels.dtype == np.int32
    assert result.sizes.dtype == np.int64
    assert result.centroids.dtype == np.float32


def test_restarts_keep_the_lowest_inertia():
    rows = gaussian_rows()
    single, several = (
        fit_plain(rows, num_clusters=20, seed=2, num_restarts=restarts)
        for restarts in (1, 4)
    )
    assert several.inertia < single.inertia


def test_the_same_seed_gives_the_same_result_and_another_another():
    rows = gaussian_rows()
    first = fit_plain(rows, num_clusters=20, seed=3)
    second = fit_plain(rows, num_clusters=20, seed=3)
    other = fit_plain(rows, num_clusters=20, seed=4)
    np.testing.assert_array_equal(first.centroids, second.centroids)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert not np.array_equal(first.labels, other.labels)


def test_initial_centroids_start_better_than_random_rows():
    rows, _ = blobs(spread=1.0)
    drawn = np.random.default_rng(0).permutation(len(rows))[:20]
    ours = fit_plain(rows, num_clusters=20, num_iterations=1)
    random = fit_plain(
        rows, num_clusters=20, num_iterations=1, initial_centroids=rows[drawn]
    )
    assert ours.inertia_history[0] < 0.5 * random.inertia_history[0]


def test_the_initial_sample_of_many_rows_holds_distinct_rows(two_devices):
    # Shape and settings are those of test_two_replicas_give_the_labels_of_one_device.
    rows = np.tile(np.arange(20_001, dtype=np.float32)[:, None] / 20_001, 4)
    settings = {"num_clusters": 8, "num_iterations": 1, "num_restarts": 2}
    result = fit_plain(rows, **settings)
    shared = fit_plain(rows, **settings, strategy=two_devices)
    assert len(np.unique(result.centroids, axis=0)) == 8
    np.testing.assert_allclose(shared.centroids, result.centroids, atol=1e-5)


@pytest.mark.parametrize("num_rows", [1, 20_001])
def test_two_replicas_give_the_labels_of_one_device(two_devices, num_rows):
    rows = gaussian_rows(num_rows, width=4)
    settings = {"num_clusters": min(num_rows, 8), "seed": 5, "num_restarts": 2}
    one = kmeans.fit(rows, **settings)
    two = kmeans.fit(rows, **settings, strategy=two_devices)
    # Sums in another order: a row between two clusters may fall to either.
    assert np.mean(two.labels == one.labels) >= 0.999
    np.testing.assert_allclose(two.sizes, one.sizes, atol=20)
    np.testing.assert_allclose(two.centroids, one.centroids, atol=1e-3)
    np.testing.assert_allclose(two.inertia, one.inertia, rtol=1e-5, atol=1e-9)


def test_two_replicas_fill_empty_clusters_as_one_device(two_devices):
    rows, start = many_empty_clusters()
    one = fit_plain(rows, num_clusters=20, initial_centroids=start)
    two = fit_plain(
        rows, num_clusters=20, initial_centroids=start, strategy=two_devices
    )
    np.testing.assert_array_equal(two.labels, one.labels)
    assert two.num_reseeded == one.num_reseeded


def test_chunks_give_what_one_piece_gives(monkeypatch):
    rows = gaussian_rows(103, width=5)  # a shape of its own, so that it is traced here
    monkeypatch.setattr(fit_settings, "MOST_BLOCK_ROWS", 10)
    monkeypatch.setattr(fit_settings, "_FEWEST_BLOCK_ROWS", 1)
    start = rows[:6]
    result = fit_plain(rows, num_clusters=6, initial_centroids=start)
    oracle = KMeans(6, init=start, n_init=1, max_iter=20, tol=0).fit(rows)
    np.testing.assert_array_equal(result.labels, oracle.labels_)


def test_bfloat16_products_end_within_a_thousandth_of_the_inertia():
    rows, _ = blobs(num_blobs=16, per_blob=100, width=32, spread=3.0)
    full = kmeans.fit(rows, num_clusters=16, seed=0)
    mixed = kmeans.fit(rows, num_clusters=16, seed=0, precision="mixed")
    np.testing.assert_allclose(mixed.inertia, full.inertia, rtol=1e-3)


def test_mixed_is_float32_where_bfloat16_would_be_slower(monkeypatch):
    rows, _ = blobs(num_blobs=16, per_blob=20, width=8)
    monkeypatch.setattr(fit_settings.processor, "has_bfloat16", lambda: False)
    monkeypatch.setattr(fit_settings, "works_on_gpu", lambda *_: False)
    fit_settings._warn_of_float32.cache_clear()
    full = kmeans.fit(rows, num_clusters=16, seed=0)
    with pytest.warns(UserWarning, match="computes in float32 here") as warned:
        for _ in range(2):
            mixed = kmeans.fit(rows, num_clusters=16, seed=0, precision="mixed")
    assert len(warned) == 1
    np.testing.assert_array_equal(mixed.centroids, full.centroids)


def test_a_second_fit_of_the_same_shape_is_not_traced_again():
    rows = gaussian_rows()
    fit_plain(rows, num_clusters=20, seed=1)
    traced = lloyd.fit_rows.experimental_get_tracing_count()
    fit_plain(rows + 1, num_clusters=20, seed=2)
    assert lloyd.fit_rows.experimental_get_tracing_count() == traced


def test_whitened_features_have_identity_covariance():
    rows = gaussian_rows() @ np.diag([9, 3, 1, 0.5, 0.2, 0.1]).astype("f4")
    rows = rows @ gaussian_rows(6, seed=7) + 4
    result = fit_plain(rows, num_clusters=20, pca_components=3)
    white = (rows - result.pca_mean) @ result.pca_projection
    np.testing.assert_allclose(np.cov(white.T), np.eye(3), atol=2e-3)
    np.testing.assert_allclose(white.mean(axis=0), np.zeros(3), atol=1e-3)


def test_whitening_keeps_the_directions_of_largest_variance():
    lengths = np.array([0.01, 100.0, 0.1, 10.0, 0.001, 1.0], np.float32)
    result = fit_plain(gaussian_rows() * lengths, num_clusters=20, pca_components=3)
    directions = result.pca_projection / np.linalg.norm(result.pca_projection, axis=0)
    np.testing.assert_allclose(np.abs(directions).T, np.eye(6)[[1, 3, 5]], atol=0.02)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_normalised_rows_of_any_length_fall_together_by_direction(scale):
    rows = np.array([[1, 0], [5, 0], [0, 2], [0, 9]], np.float32) * np.float32(scale)
    result = kmeans.fit(rows, num_clusters=2, seed=0)
    assert same_partition(result.labels, [0, 0, 1, 1])
    np.testing.assert_allclose(np.sort(result.centroids, axis=0), [[0, 0], [1, 1]])


def test_initial_centroids_are_taken_in_the_space_of_the_normalised_rows():
    rows = np.array([[3.0, 0.0], [0.0, 7.0]], np.float32)
    result = kmeans.fit(
        rows, num_clusters=2, seed=0, initial_centroids=[[0.0, 1.0], [1.0, 0.0]]
    )
    np.testing.assert_array_equal(result.labels, [1, 0])
    np.testing.assert_allclose(result.inertia_history[0], 0.0, atol=1e-12)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pca_components", [None, 3])
def test_assign_repeats_the_labels_of_the_fit(normalize, pca_components):
    rows = gaussian_rows()
    result = kmeans.fit(
        rows,
        num_clusters=20,
        seed=0,
        normalize=normalize,
        pca_components=pca_components,
    )
    labels, distances = kmeans.assign(rows, result)
    np.testing.assert_array_equal(labels, result.labels)
    np.testing.assert_allclose(distances.sum(), result.inertia, rtol=1e-5)


def test_assign_labels_rows_that_were_not_fitted():
    rows = np.array([[0.0, 0.0], [10.0, 0.0]], np.float32)
    result = fit_plain(rows, num_clusters=2, initial_centroids=rows)
    labels, distances = kmeans.assign([[9.0, 1.0], [1.0, 0.0]], result)
    np.testing.assert_array_equal(labels, [1, 0])
    np.testing.assert_allclose(distances, [2.0, 1.0], rtol=1e-5)


def test_tensors_and_double_precision_are_taken_as_float32():
    rows = gaussian_rows()
    from_tensor = fit_plain(tf.constant(rows), num_clusters=20)
    from_double = fit_plain(rows.astype(np.float64), num_clusters=20)
    np.testing.assert_array_equal(from_tensor.labels, from_double.labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_clusters": 11},
            "num_clusters=11 exceeds the 10 rows .* lower num_clusters",
        ),
        ({"num_clusters": 0}, "num_clusters=0 must be from 1 to"),
        ({"num_iterations": 0}, "num_iterations=0 must be from 1 to"),
        ({"num_restarts": 0}, "num_restarts=0 must be from 1 to"),
        ({"num_clusters": 2.0}, "num_clusters=2.0 must be a whole number"),
        ({"num_iterations": "5"}, "num_iterations='5' must be a whole number"),
        ({"seed": None}, "seed=None must be a whole number"),
        ({"seed": -1}, "seed=-1 must be from 0 to"),
        ({"precision": "half"}, "precision='half' is unknown.*float32, mixed"),
        ({"pca_components": 4}, "pca_components=4 must lie between 1 and 3"),
        ({"pca_components": 0}, "pca_components=0 must lie between 1 and 3"),
        ({"initial_centroids": np.zeros((2, 2))}, r"shape \(2, 2\) but must have"),
        ({"initial_centroids": np.full((2, 3), np.nan)}, "hold NaN or infinity"),
        (
            {"initial_centroids": np.zeros((2, 3)), "num_restarts": 2},
            "2 heads and restarts would repeat the same fit",
        ),
    ],
)
def test_settings_that_do_not_fit_are_named_with_a_remedy(settings, message):
    with pytest.raises(ValueError, match=message):
        kmeans.fit(
            gaussian_rows(10, width=3), **{"num_clusters": 2, "seed": 0} | settings
        )


def test_an_error_about_an_argument_has_the_name_of_the_argument():
    with pytest.raises(kmeans.ArgumentError) as caught:
        kmeans.fit(gaussian_rows(10), num_clusters=11, seed=0)
    assert caught.value.argument == "num_clusters"


@pytest.mark.parametrize("shape", [(10,), (2, 5, 1), (0, 3), (3, 0)])
def test_features_that_are_not_a_filled_matrix_are_refused(shape):
    with pytest.raises(ValueError, match="must be a filled"):
        kmeans.fit(np.ones(shape, np.float32), num_clusters=1, seed=0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_named(value):
    rows = gaussian_rows(10)
    rows[[2, 7], 1] = value
    with pytest.raises(ValueError, match="2 rows with NaN or infinity.*are 2, 7;"):
        kmeans.fit(rows, num_clusters=2, seed=0)


def test_all_zero_rows_are_named_when_they_must_be_normalised():
    rows = gaussian_rows(10)
    rows[[0, 4]] = 0
    with pytest.raises(ValueError, match="2 all-zero rows, the first are 0, 4"):
        kmeans.fit(rows, num_clusters=2, seed=0)


def test_all_zero_rows_are_clustered_as_they_are_without_normalisation():
    rows = np.zeros((4, 2), np.float32)
    rows[3] = 1
    result = fit_plain(rows, num_clusters=2)
    assert same_partition(result.labels, [0, 0, 0, 1])


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64, np.uint16])
def test_integers_of_numpy_are_numbers_as_any(kind):
    rows = gaussian_rows()
    expected = fit_plain(rows, num_clusters=20, num_iterations=3, num_restarts=4)
    result = fit_plain(
        rows, num_clusters=kind(20), num_iterations=kind(3), num_restarts=kind(4)
    )
    np.testing.assert_array_equal(result.labels, expected.labels)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_rows_of_unusual_size_are_clustered_like_others(scale):
    rows = gaussian_rows()
    expected = fit_plain(rows, num_clusters=20)
    result = fit_plain(rows * np.float32(scale), num_clusters=20)
    assert same_partition(result.labels, expected.labels)
    np.testing.assert_allclose(result.inertia, expected.inertia * scale**2, rtol=1e-3)


def test_rows_whose_squares_float32_cannot_hold_are_named():
    rows = gaussian_rows()
    rows[[3, 8]] *= np.float32(1e19)
    with pytest.raises(
        ValueError, match="2 rows longer than 1e.15, the first are 3, 8"
    ):
        fit_plain(rows, num_clusters=2)
    assert kmeans.fit(rows, num_clusters=20, seed=0).sizes.sum() == 400
    with pytest.raises(ValueError, match="all 10 rows .* are shorter than 1e-15"):
        fit_plain(gaussian_rows(10) * np.float32(1e-21), num_clusters=2)


def test_whitening_features_of_lower_rank_is_refused():
    rows = gaussian_rows(50, width=3) @ gaussian_rows(3, width=6)
    with pytest.raises(
        ValueError, match="pca_components=5 but the features vary along 3"
    ):
        kmeans.fit(rows, num_clusters=2, seed=0, pca_components=5)


def test_assign_refuses_features_of_another_width():
    result = kmeans.fit(gaussian_rows(), num_clusters=20, seed=0, pca_components=3)
    with pytest.raises(ValueError, match="4 columns but the clustering .* on 6"):
        kmeans.assign(gaussian_rows(width=4), result)


def memory_mapped(directory, rows, dtype="f4", name="rows.npy"):
    np.save(directory / name, rows.astype(dtype))
    return matrices.open_rows(directory / name)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of ten rows, so that a few hundred rows take many."""
    monkeypatch.setattr(fit_settings, "MOST_BLOCK_ROWS", 10)
    monkeypatch.setattr(fit_settings, "_FEWEST_BLOCK_ROWS", 1)


@pytest.mark.parametrize(("dtype", "precision"), [("f4", "float32"), ("f2", "mixed")])
def test_rows_in_a_file_are_clustered_as_in_memory(
    tmp_path, small_blocks, dtype, precision
):
    rows = gaussian_rows(203).astype(dtype)
    settings = {"num_clusters": 7, "seed": 1, "precision": precision}
    in_memory = kmeans.fit(rows, **settings)
    in_file = kmeans.fit(memory_mapped(tmp_path, rows, dtype), **settings)
    np.testing.assert_array_equal(in_file.labels, in_memory.labels)
    np.testing.assert_array_equal(in_file.sizes, in_memory.sizes)
    np.testing.assert_allclose(in_file.centroids, in_memory.centroids, atol=1e-6)
    np.testing.assert_allclose(in_file.inertia, in_memory.inertia, rtol=1e-6)


def test_rows_of_several_files_are_one_after_the_other(tmp_path, small_blocks):
    rows = gaussian_rows(203)
    whole = memory_mapped(tmp_path, rows, name="whole.npy")
    parts = [
        memory_mapped(tmp_path, rows[:33], name="a.npy"),
        memory_mapped(tmp_path, rows[33:], name="b.npy"),
    ]
    expected = kmeans.fit(rows, num_clusters=7, seed=0)
    for features in (parts, [whole[:33], whole[33:]]):
        result = kmeans.fit(features, num_clusters=7, seed=0)
        np.testing.assert_array_equal(result.labels, expected.labels)


def test_two_replicas_share_the_rows_of_a_file(tmp_path, small_blocks, two_devices):
    rows = gaussian_rows(203)
    settings = {"num_clusters": 7, "seed": 3}
    one = kmeans.fit(rows, **settings)
    two = kmeans.fit(memory_mapped(tmp_path, rows), strategy=two_devices, **settings)
    np.testing.assert_array_equal(two.labels, one.labels)
    np.testing.assert_allclose(two.centroids, one.centroids, atol=1e-5)


def test_rows_in_a_file_are_whitened_as_in_memory(tmp_path, small_blocks):
    rows = gaussian_rows(200) @ gaussian_rows(6, seed=5) + 3
    settings = {"num_clusters": 5, "seed": 0, "pca_components": 3}
    in_memory = kmeans.fit(rows, **settings)
    in_file = kmeans.fit(memory_mapped(tmp_path, rows), **settings)
    np.testing.assert_array_equal(in_file.labels, in_memory.labels)
    np.testing.assert_allclose(
        in_file.pca_projection, in_memory.pca_projection, atol=1e-5
    )


def test_rows_in_a_file_are_assigned_as_in_memory(tmp_path, small_blocks):
    rows = gaussian_rows(203)
    result = kmeans.fit(rows, num_clusters=7, seed=0)
    labels, distances = kmeans.assign(memory_mapped(tmp_path, rows), result)
    np.testing.assert_array_equal(labels, result.labels)
    np.testing.assert_allclose(distances.sum(), result.inertia, rtol=1e-5)


def test_empty_clusters_are_filled_from_rows_in_a_file(tmp_path, small_blocks):
    rows, start = many_empty_clusters()
    settings = {"num_clusters": 20, "initial_centroids": start}
    in_memory = fit_plain(rows, **settings)
    in_file = fit_plain(memory_mapped(tmp_path, rows), **settings)
    np.testing.assert_array_equal(in_file.labels, in_memory.labels)
    assert in_file.num_reseeded == in_memory.num_reseeded >= 19


def test_rows_that_are_not_fitted_are_labelled_only():
    rows = np.array([[0.0], [2.0], [10.0], [12.0], [900.0], [777.0]], np.float32)
    result = fit_plain(
        rows,
        num_clusters=2,
        initial_centroids=[[0.0], [10.0]],
        fitted_rows=np.array([True, True, True, True, False, False]),
        present_rows=np.array([True, True, True, True, True, False]),
    )
    np.testing.assert_allclose(result.centroids, [[1.0], [11.0]], atol=1e-4)
    np.testing.assert_array_equal(result.labels, [0, 0, 1, 1, 1, -1])
    np.testing.assert_array_equal(result.sizes, [2, 2])
    np.testing.assert_allclose(result.inertia, 4.0, atol=1e-3)


def test_rows_that_are_not_present_may_hold_anything():
    rows = gaussian_rows(402)
    rows[7] = np.nan
    rows[9] = 0
    present = np.ones(402, bool)
    present[[7, 9]] = False
    result = kmeans.fit(rows, num_clusters=20, seed=0, present_rows=present)
    alone = kmeans.fit(rows[present], num_clusters=20, seed=0)
    np.testing.assert_array_equal(result.labels[present], alone.labels)
    np.testing.assert_array_equal(result.labels[~present], [-1, -1])


@pytest.mark.parametrize(
    "mask", [np.ones(9, bool), np.ones(10, np.int32), np.ones((10, 1), bool)]
)
def test_a_mask_that_does_not_fit_the_rows_is_refused(mask):
    with pytest.raises(ValueError, match="fitted_rows has shape .* for 10 rows"):
        kmeans.fit(gaussian_rows(10), num_clusters=2, seed=0, fitted_rows=mask)


def test_heads_are_clusterings_of_their_own():
    rows = gaussian_rows()
    heads = kmeans.fit_heads(rows, kmeans.Options(20), num_heads=4, seed=0)
    assert len(heads) == 4
    for one, other in itertools.combinations(heads, 2):
        assert not same_partition(one.labels, other.labels)
    for head in heads:
        distances = squared_distances(
            rows / np.linalg.norm(rows, axis=1, keepdims=True), head.centroids
        )
        np.testing.assert_array_equal(head.labels, distances.argmin(axis=1))
        np.testing.assert_allclose(head.inertia, distances.min(axis=1).sum(), rtol=1e-5)


def test_a_head_is_what_a_fit_alone_gives():
    rows = gaussian_rows()
    alone = kmeans.fit(rows, num_clusters=20, seed=4)
    first = kmeans.fit_heads(rows, kmeans.Options(20), num_heads=4, seed=4)[0]
    np.testing.assert_array_equal(first.labels, alone.labels)


def test_each_head_keeps_the_best_of_its_restarts():
    rows = gaussian_rows()
    single = kmeans.fit_heads(rows, kmeans.Options(20), num_heads=4, seed=1)
    several = kmeans.fit_heads(
        rows, kmeans.Options(20, num_restarts=2), num_heads=2, seed=1
    )
    inertia = [one.inertia for one in single]
    np.testing.assert_allclose(
        [one.inertia for one in several],
        [min(inertia[:2]), min(inertia[2:])],
        rtol=1e-6,
    )


def test_spherical_centroids_have_length_one_and_the_largest_cosine():
    rows = gaussian_rows() + 1
    result = kmeans.fit(rows, num_clusters=20, seed=0, spherical=True)
    np.testing.assert_allclose(
        np.linalg.norm(result.centroids, axis=1), np.ones(20), atol=1e-5
    )
    np.testing.assert_array_equal(
        result.labels, (rows @ result.centroids.T).argmax(axis=1)
    )


def test_spherical_centroids_point_where_their_rows_do():
    rows = gaussian_rows()
    result = kmeans.fit(
        rows, num_clusters=20, seed=0, spherical=True, num_iterations=200
    )
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for number, centroid in enumerate(result.centroids):
        mean = unit[result.labels == number].mean(axis=0)
        np.testing.assert_allclose(centroid, mean / np.linalg.norm(mean), atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_the_spherical_objective_never_rises(seed):
    rows = gaussian_rows(seed=seed)
    result = kmeans.fit(rows, num_clusters=20, seed=seed, spherical=True)
    objectives = [*result.inertia_history, result.inertia]
    assert np.all(np.diff(objectives) <= 1e-5 * objectives[0])


def test_a_tolerance_ends_a_fit_early():
    rows = gaussian_rows()
    full = fit_plain(rows, num_clusters=20, num_iterations=100)
    early = fit_plain(rows, num_clusters=20, num_iterations=100, tolerance=0.02)
    done = len(early.inertia_history)
    assert 1 < done < len(full.inertia_history)
    np.testing.assert_allclose(
        early.inertia_history, full.inertia_history[:done], rtol=1e-6
    )
    drops = -np.diff(early.inertia_history) / early.inertia_history[:-1]
    assert drops[-1] <= 0.02 < drops[:-1].min()


def uneven_blobs():
    """800 rows in blobs of 500, 200, 80 and 20 that touch each other."""
    rng = np.random.default_rng(0)
    members = np.repeat(np.arange(4), [500, 200, 80, 20])
    centres = rng.standard_normal((4, 8))
    noise = rng.standard_normal((800, 8))
    return (centres[members] + noise).astype(np.float32)


def test_balanced_clusters_have_nearly_equal_sizes():
    rows = uneven_blobs()
    plain = fit_plain(rows, num_clusters=8, num_iterations=40)
    balanced = fit_plain(rows, num_clusters=8, num_iterations=40, balanced=True)
    assert plain.sizes.max() > 1.5 * plain.sizes.min()
    assert balanced.sizes.max() <= 1.1 * 100
    assert balanced.sizes.min() >= 0.9 * 100


def test_balanced_labels_are_the_nearest_after_the_offsets():
    rows = uneven_blobs()
    result = fit_plain(rows, num_clusters=8, balanced=True)
    adjusted = squared_distances(rows, result.centroids) - result.offsets
    np.testing.assert_array_equal(result.labels, adjusted.argmin(axis=1))
    labels, distances = kmeans.assign(rows, result)
    np.testing.assert_array_equal(labels, result.labels)
    np.testing.assert_allclose(distances.sum(), result.inertia, rtol=1e-5)


def test_float16_products_end_within_a_thousandth_of_the_inertia(monkeypatch):
    rows, _ = blobs(num_blobs=16, per_blob=100, width=32, spread=3.0)
    full = fit_plain(1000 * rows, num_clusters=16)
    monkeypatch.setattr(
        fit_settings, "matmul_dtype", lambda precision, *, on_gpu: tf.float16
    )
    half = fit_plain(1000 * rows, num_clusters=16, precision="mixed")
    np.testing.assert_allclose(half.inertia, full.inertia, rtol=1e-3)
