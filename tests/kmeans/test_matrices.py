import numpy as np
import pytest

from xdc_tf.kmeans import kmeans, matrices

ROWS = np.arange(60, dtype=np.float32).reshape(20, 3)


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "rows.npy", ROWS)
    return tmp_path / "rows.npy"


def test_opened_rows_are_those_of_the_file(path):
    rows = matrices.open_rows(path, width=3)
    np.testing.assert_array_equal(rows, ROWS)
    assert isinstance(rows, np.memmap) and not rows.flags.writeable


@pytest.mark.parametrize("chosen", [slice(None), slice(4, 9), slice(19, 20)])
def test_a_run_of_rows_is_found_in_the_file(path, chosen):
    where = matrices.extent(matrices.open_rows(path)[chosen])
    read = matrices.read_rows(where, 0, where.num_rows)
    np.testing.assert_array_equal(read, ROWS[chosen])


def test_a_run_of_a_run_of_rows_is_found_in_the_file(path):
    where = matrices.extent(matrices.open_rows(path)[5:][3:7])
    np.testing.assert_array_equal(matrices.read_rows(where, 1, 2), ROWS[9:11])


@pytest.mark.parametrize("chosen", [np.s_[::2], np.s_[:, 1:]])
def test_rows_that_do_not_follow_each_other_are_refused(path, chosen):
    with pytest.raises(ValueError, match="rows.npy: the selected rows do not follow"):
        matrices.extent(matrices.open_rows(path)[chosen])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.npy: no such file"):
        matrices.open_rows(tmp_path / "absent.npy")


@pytest.mark.parametrize("size", [0, 40, 127, 200])
def test_a_truncated_file_is_refused_when_it_is_opened(path, size):
    content = path.read_bytes()
    path.write_bytes(content[:size])
    with pytest.raises(ValueError, match="rows.npy: .*(cut short|no .npy array)"):
        matrices.open_rows(path)


def test_a_file_cut_short_after_it_was_opened_is_refused_before_any_work(path):
    rows = matrices.open_rows(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="300 bytes where its rows end at 368"):
        kmeans.fit(rows, num_clusters=2, seed=0)


@pytest.mark.parametrize("dtype", ["f8", "i4", ">f4", "c8"])
def test_another_type_of_numbers_is_refused(tmp_path, dtype):
    np.save(tmp_path / "rows.npy", ROWS.astype(dtype))
    expected = "features are float32 or float16|byte order|not plain numbers"
    with pytest.raises(ValueError, match=f"rows.npy.*({expected})"):
        matrices.open_rows(tmp_path / "rows.npy")


@pytest.mark.parametrize("shape", [(60,), (5, 4, 3), (0, 3)])
def test_what_is_no_filled_matrix_is_refused(tmp_path, shape):
    np.save(tmp_path / "rows.npy", np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="rows.npy.*filled"):
        matrices.open_rows(tmp_path / "rows.npy")


def test_another_width_is_refused(path):
    with pytest.raises(ValueError, match="has 3 columns where 4 are expected"):
        matrices.open_rows(path, width=4)


def test_an_archive_of_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "rows.npz", ROWS)
    with pytest.raises(ValueError, match="rows.npz: no .npy array"):
        matrices.open_rows(tmp_path / "rows.npz")


def test_pickled_objects_are_refused(tmp_path):
    np.save(tmp_path / "rows.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="rows.npy: holds '.O'"):
        matrices.open_rows(tmp_path / "rows.npy")


def test_files_of_different_encoders_are_not_clustered_together(path, tmp_path):
    np.save(tmp_path / "other.npy", ROWS.astype(np.float16))
    files = [matrices.open_rows(path), matrices.open_rows(tmp_path / "other.npy")]
    with pytest.raises(ValueError, match="differ in width and type"):
        kmeans.fit(files, num_clusters=2, seed=0)


def test_rows_of_a_file_that_are_not_finite_are_named(path):
    rows = ROWS.copy()
    rows[[4, 11], 1] = np.nan
    np.save(path, rows)
    with pytest.raises(ValueError, match="2 rows with NaN or infinity.*are 4, 11;"):
        kmeans.fit(matrices.open_rows(path), num_clusters=2, seed=0)
