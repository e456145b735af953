"""The form of k-means for GPUs, run on the CPU, and where TensorFlow would place it."""

import gpu_placement
import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.kmeans import fit_settings, kmeans, lloyd, matrices

pytestmark = pytest.mark.once


def blobs(num_rows=3000, width=16, num_blobs=40):
    rng = np.random.default_rng(0)
    centres = 2 * rng.standard_normal((num_blobs, width))
    rows = centres[rng.integers(0, num_blobs, num_rows)]
    return (rows + rng.standard_normal((num_rows, width))).astype(np.float32)


def test_without_xla_fits_are_not_compiled_and_say_so(monkeypatch):
    def fails(_):
        raise tf.errors.UnimplementedError(None, None, "no ptxas")

    monkeypatch.setattr(tf, "function", lambda function, **options: fails)
    fit_settings.can_compile.cache_clear()
    with pytest.warns(UserWarning, match="without XLA.* no ptxas"):
        assert not fit_settings.can_compile()
    monkeypatch.undo()
    fit_settings.can_compile.cache_clear()
    assert fit_settings.can_compile()


@pytest.fixture
def as_on_gpu(monkeypatch):
    """Fits take the form for GPUs, with blocks that divide these tests' rows."""

    def small_blocks(num_columns, *, on_gpu=False):
        assert on_gpu
        return 1000

    monkeypatch.setattr(fit_settings, "works_on_gpu", lambda device, strategy: True)
    monkeypatch.setattr(fit_settings, "block_rows", small_blocks)


def fit(rows, **settings):
    settings = {"num_clusters": 30, "seed": 3, "num_iterations": 8} | settings
    return kmeans.fit(rows, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"precision": "mixed", "num_restarts": 2},
        {"balanced": True, "fitted_rows": np.arange(3000) % 3 > 0},
        {"spherical": True, "tolerance": 0.01},
    ],
    ids=lambda settings: ",".join(settings) or "plain",
)
def test_the_form_for_gpus_gives_the_clusters_of_the_one_for_cpus(request, settings):
    rows = blobs()
    on_cpu = fit(rows, **settings)
    request.getfixturevalue("as_on_gpu")
    on_gpu = fit(rows, **settings)
    assert on_gpu.labels.dtype == np.int32
    np.testing.assert_array_equal(on_gpu.labels, on_cpu.labels)
    np.testing.assert_array_equal(on_gpu.sizes, on_cpu.sizes)
    np.testing.assert_allclose(on_gpu.centroids, on_cpu.centroids, atol=1e-5)
    np.testing.assert_allclose(on_gpu.inertia_history, on_cpu.inertia_history)


def test_empty_clusters_are_placed_alike_in_the_form_for_gpus(request):
    rows = blobs(300, 6)
    far = np.random.default_rng(1).uniform(50, 60, (20, 6)).astype(np.float32)
    far[0] = 0
    settings = {"num_clusters": 20, "initial_centroids": far, "normalize": False}
    on_cpu = fit(rows, **settings)
    request.getfixturevalue("as_on_gpu")
    on_gpu = fit(rows, **settings)
    assert on_gpu.num_reseeded == on_cpu.num_reseeded > 0
    np.testing.assert_array_equal(on_gpu.labels, on_cpu.labels)


@pytest.mark.slow
def test_rows_in_files_and_on_replicas_are_clustered_alike_in_the_form_for_gpus(
    request, tmp_path, two_devices
):
    rows = blobs()
    on_cpu = fit(rows)
    request.getfixturevalue("as_on_gpu")
    np.save(tmp_path / "rows.npy", rows)
    in_files = fit(matrices.open_rows(str(tmp_path / "rows.npy")))
    np.testing.assert_array_equal(in_files.labels, on_cpu.labels)
    on_two = fit(rows, strategy=two_devices)
    np.testing.assert_array_equal(on_two.labels, on_cpu.labels)


def test_a_fit_of_rows_on_the_cpu_does_not_take_the_form_for_gpus():
    assert not fit_settings.works_on_gpu("/job:localhost/replica:0/device:CPU:0", None)
    assert not fit_settings.works_on_gpu(None, None)
    assert fit_settings.works_on_gpu("/job:localhost/replica:0/device:GPU:0", None)


def test_a_block_of_a_gpu_has_scores_of_at_most_256_mib():
    for num_columns in (2, 256, 4096, 65536):
        rows = fit_settings.block_rows(num_columns, on_gpu=True)
        assert rows * num_columns <= 2**26
        assert rows > fit_settings.block_rows(num_columns)


@pytest.mark.parametrize("allowed", [False, True])
def test_tf32_is_off_during_a_fit_and_as_before_after_it(monkeypatch, allowed):
    seen = []
    fit_rows = lloyd.fit_rows

    def look(*arguments, **options):
        seen.append(tf.config.experimental.tensor_float_32_execution_enabled())
        return fit_rows(*arguments, **options)

    monkeypatch.setattr(lloyd, "fit_rows", look)
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(allowed)
    try:
        fit(blobs(300), num_iterations=1)
        assert tf.config.experimental.tensor_float_32_execution_enabled() == allowed
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
    assert seen == [False]


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_no_rows_or_labels_travel_to_the_host_in_a_fit_on_a_gpu(
    as_on_gpu, monkeypatch, precision
):
    graphs = []
    fit_rows = lloyd.fit_rows

    def keep_graph(*arguments, **options):
        graphs.append(fit_rows.get_concrete_function(*arguments, **options).graph)
        return fit_rows(*arguments, **options)

    monkeypatch.setattr(lloyd, "fit_rows", keep_graph)
    fit(blobs(), precision=precision, num_iterations=1)
    assert list(gpu_placement.work_on_host(graphs[0])) == []
