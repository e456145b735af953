"""Numbers of clusters compared, on four well separated groups of points."""

import csv
import hashlib
import itertools
import json
import re

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from xdc_tf.experiments import cluster_counts
from xdc_tf.features.extraction import ExampleFeatures
from xdc_tf.features.feature_store import FeatureStore, RowState
from xdc_tf.kmeans import kmeans

pytestmark = pytest.mark.once

GROUP_SIZES = (30, 20, 20, 10)
SETTINGS = {"num_iterations": 10, "normalize": False}


@pytest.fixture(scope="module")
def features():
    """[80, 6]: four groups on four axes, far from each other."""
    noise = np.random.default_rng(0).normal(scale=0.1, size=[80, 6])
    centres = np.repeat(10 * np.eye(6)[:4], GROUP_SIZES, axis=0)
    return (centres + noise).astype(np.float32)


@pytest.fixture
def path(features, tmp_path):
    np.save(tmp_path / "audio.npy", features)
    return str(tmp_path / "audio.npy")


def tried(rows, counts, num_seeds=3, present=None, **settings):
    settings = SETTINGS | settings
    present = np.ones(len(rows), bool) if present is None else present
    features = cluster_counts.Features(rows, present)
    results = cluster_counts.try_counts(
        features, counts, num_seeds=num_seeds, **settings
    )
    return list(results)


def test_as_many_clusters_as_groups_are_found_by_every_seed(features):
    (result,) = tried(features, [4])
    assert (result.nmi, result.ari) == (pytest.approx(1), pytest.approx(1))
    sizes = result.size_min, result.size_median, result.size_max
    assert sizes == (10, 20, 30)
    assert result.empty_clusters == 0
    shares = np.array(GROUP_SIZES) / 80
    effective = np.exp(-np.sum(shares * np.log(shares)))
    assert result.effective_clusters == pytest.approx(effective)


def test_variance_explained_is_that_between_clusters_by_that_of_all(features):
    (result,) = tried(features, [4])
    total = np.sum((features - features.mean(axis=0)) ** 2)
    groups = np.split(features, np.cumsum(GROUP_SIZES)[:-1])
    within = sum(np.sum((group - group.mean(axis=0)) ** 2) for group in groups)
    assert result.inertia == pytest.approx(within, rel=1e-4)
    assert result.variance_explained == pytest.approx(1 - within / total, rel=1e-5)


def test_variance_explained_is_of_the_features_as_they_are_clustered(features):
    shifted = features + 5
    (result,) = tried(shifted, [4], normalize=True)
    rows = shifted / np.linalg.norm(shifted, axis=1, keepdims=True)
    total = np.sum((rows - rows.mean(axis=0)) ** 2)
    expected = 1 - result.inertia / total
    assert result.variance_explained == pytest.approx(expected, rel=1e-5)


def test_stability_and_inertia_are_those_of_the_seeds_fits(features):
    (result,) = tried(features, [7], num_iterations=2)
    fits = [
        kmeans.fit(
            features, num_clusters=7, seed=seed, num_iterations=2, normalize=False
        )
        for seed in range(3)
    ]
    pairs = list(itertools.combinations([fit.labels for fit in fits], 2))
    nmis = [normalized_mutual_info_score(*pair) for pair in pairs]
    aris = [adjusted_rand_score(*pair) for pair in pairs]
    assert result.nmi == pytest.approx(np.mean(nmis))
    assert result.ari == pytest.approx(np.mean(aris))
    assert result.nmi < 1
    inertias = [fit.inertia for fit in fits]
    assert result.inertia == pytest.approx(min(inertias))
    assert result.mean_inertia == pytest.approx(np.mean(inertias))


def test_each_number_of_clusters_has_its_result_in_turn(features):
    results = tried(features, [2, 5], num_seeds=2)
    assert [result.num_clusters for result in results] == [2, 5]
    assert results[0].inertia > results[1].inertia


def test_rows_that_are_all_the_same_are_refused():
    with pytest.raises(ValueError, match="all 9 rows of features are the same"):
        tried(np.ones([9, 3], np.float32), [2])


def test_one_seed_is_refused(features):
    with pytest.raises(ValueError, match="num_seeds=1 must be at least 2"):
        tried(features, [2], num_seeds=1)


def test_rows_without_an_example_take_no_part(features):
    present = np.arange(80) >= 50  # without the first two groups
    (result,) = tried(features, [2], present=present)
    (alone,) = tried(features[50:], [2])
    assert (result.size_min, result.size_max) == (10, 20)
    assert result.inertia == pytest.approx(alone.inertia, rel=1e-4)
    explained = result.variance_explained
    assert explained == pytest.approx(alone.variance_explained, rel=1e-4)
    assert result.ari == pytest.approx(1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_features_that_fit_into_memory_are_read_as_float32(features, tmp_path, dtype):
    np.save(tmp_path / "video.npy", features.astype(dtype))
    opened = cluster_counts.open_features(str(tmp_path / "video.npy"))
    assert opened.rows.dtype == np.float32 and opened.present.all()
    np.testing.assert_array_equal(opened.rows, features.astype(dtype))


def test_features_above_the_limit_of_memory_stay_in_their_file(features, path):
    opened = cluster_counts.open_features(path, memory_gib=1e-9)
    assert isinstance(opened.rows, np.memmap)
    np.testing.assert_array_equal(opened.rows, features)


def test_features_in_their_file_give_the_clusters_of_those_in_memory(path):
    in_file, in_memory = (
        cluster_counts.compare(
            path, ["4"], num_seeds=2, memory_gib=memory_gib, **SETTINGS
        )[0]
        for memory_gib in (1e-9, 1.0)
    )
    assert in_file.inertia == pytest.approx(in_memory.inertia, rel=1e-5)
    assert in_file.ari == pytest.approx(1)


def test_rows_of_a_run_without_an_example_are_told(path, tmp_path):
    states = np.full(80, RowState.EXTRACTED, np.uint8)
    states[[0, 5]] = RowState.EMPTY
    states[7] = RowState.HARVESTED
    np.save(tmp_path / "rows.npy", states)
    opened = cluster_counts.open_features(path)
    assert np.flatnonzero(~opened.present).tolist() == [0, 5]


def test_some_rows_are_drawn_in_order_and_the_same_each_time(features, path):
    opened = cluster_counts.open_features(path, max_rows=20).rows
    drawn = [np.flatnonzero((features == row).all(axis=1)).item() for row in opened]
    assert len(drawn) == 20 and drawn == sorted(set(drawn))
    assert max(drawn) > 40
    again = cluster_counts.open_features(path, max_rows=20).rows
    np.testing.assert_array_equal(opened, again)


def test_rows_are_drawn_from_those_with_an_example(features, path, tmp_path):
    np.save(tmp_path / "rows.npy", (np.arange(80) % 2).astype(np.uint8))
    opened = cluster_counts.open_features(path, max_rows=39)
    drawn = [
        np.flatnonzero((features == row).all(axis=1)).item() for row in opened.rows
    ]
    assert opened.present.all() and len(drawn) == 39
    assert all(number % 2 == 1 for number in drawn)


def test_more_rows_than_there_are_mean_all(path):
    assert len(cluster_counts.open_features(path, max_rows=81).rows) == 80


@pytest.mark.parametrize(
    ("states", "told"),
    [
        (np.ones(79, np.uint8), r"uint8 \(79,\) does not say which of 80 rows"),
        (np.ones(80, np.float32), r"float32 \(80,\) does not say"),
        (np.array([{}], object), "no .npy array.*holds '.O'"),
    ],
)
def test_states_of_other_rows_are_refused(path, tmp_path, states, told):
    np.save(tmp_path / "rows.npy", states, allow_pickle=True)
    with pytest.raises(ValueError, match=f"rows.npy: {told}"):
        cluster_counts.open_features(path)


def test_a_directory_without_a_filled_row_is_refused(path, tmp_path):
    np.save(tmp_path / "rows.npy", np.zeros(80, np.uint8))
    with pytest.raises(ValueError, match="none of the 80 rows .* is filled"):
        cluster_counts.open_features(path)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def write_card(path):
    """The card of extract_features beside a file of features."""
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    (path.parent / "features.json").write_text(json.dumps({"sha256": sums}))


def test_features_that_changed_since_their_card_was_written_are_refused(path, tmp_path):
    write_card(tmp_path / "audio.npy")
    assert len(cluster_counts.open_features(path).rows) == 80

    flip_a_bit(tmp_path / "audio.npy")

    with pytest.raises(
        ValueError, match="audio.npy: damaged, SHA-256 is .*features.js"
    ):
        cluster_counts.open_features(path)


@pytest.mark.parametrize("text", ["{", "[]", '{"sha256": []}', '{"sha256": {"a": 1}}'])
def test_a_damaged_card_beside_features_is_refused(text, path, tmp_path):
    (tmp_path / "features.json").write_text(text)

    with pytest.raises(ValueError, match="features.json"):
        cluster_counts.open_features(path)


def test_features_beside_a_card_of_an_earlier_version_are_opened(path, tmp_path):
    (tmp_path / "features.json").write_text('{"format": "npy"}')

    assert len(cluster_counts.open_features(path).rows) == 80


def test_rows_of_a_run_that_changed_since_they_were_written_are_refused(
    features, tmp_path
):
    store = FeatureStore(
        str(tmp_path),
        num_rows=80,
        widths={"audio": features.shape[1]},
        dtype="float32",
        made_with={},
    )
    rows = ExampleFeatures(np.arange(80), {"audio": features})
    store.write(rows, RowState.EXTRACTED)
    store.commit()
    path = tmp_path / "audio.npy"
    assert cluster_counts.open_features(str(path)).present.all()

    flip_a_bit(path)

    with pytest.raises(ValueError, match="audio.npy: 1 rows have changed .* row 79;"):
        cluster_counts.open_features(str(path))


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-4])


def as_float64(path):
    np.save(path, np.load(path).astype(np.float64))


def as_vector(path):
    np.save(path, np.load(path)[:, 0])


def as_archive(path):
    features = np.load(path)
    with open(path, "wb") as file:
        np.savez(file, features=features)


def as_pickle(path):
    np.save(path, np.array([{"features": 1}], object), allow_pickle=True)


def as_text(path):
    path.write_text("1.0,2.0\n")


@pytest.mark.parametrize(
    "spoil", [cut_short, as_float64, as_vector, as_archive, as_pickle, as_text]
)
def test_what_is_no_matrix_of_features_is_refused_by_its_name(spoil, path, tmp_path):
    spoil(tmp_path / "audio.npy")
    with pytest.raises(ValueError, match=f"^{re.escape(path)}: "):
        cluster_counts.compare(path, ["2"], out_dir=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_candidates_are_sorted_numbers():
    assert cluster_counts.check_candidates(["64", " 8", "79"], num_rows=80) == [
        8,
        64,
        79,
    ]


@pytest.mark.parametrize("candidate", ["1", "80", "-3", "2.5", "many", ""])
def test_what_is_no_number_of_clusters_of_the_rows_is_refused(candidate):
    told = f"candidates=4,{candidate}: '{candidate}' must be .* from 2 to 79"
    with pytest.raises(ValueError, match=re.escape(told).replace(r"\.\*", ".*")):
        cluster_counts.check_candidates(["4", candidate], num_rows=80)


@pytest.mark.parametrize(
    ("candidates", "told"), [(["4", "8", "4"], "4 is given twice"), ([], "none is")]
)
def test_repeated_or_no_candidates_are_refused(candidates, told):
    with pytest.raises(ValueError, match=told):
        cluster_counts.check_candidates(candidates, num_rows=80)


@pytest.fixture(scope="module")
def compared(features, tmp_path_factory):
    """Directory of a finished comparison of 4 and 2 clusters."""
    folder = tmp_path_factory.mktemp("compared")
    np.save(folder / "audio.npy", features)
    cluster_counts.compare(
        str(folder / "audio.npy"),
        ["4", "2"],
        out_dir=str(folder / "out"),
        num_seeds=2,
        **SETTINGS,
    )
    return folder / "out"


def test_the_csv_and_the_json_say_the_same(compared):
    with open(compared / "counts.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    results = json.loads((compared / "counts.json").read_text())["results"]
    assert [int(row["num_clusters"]) for row in rows] == [2, 4]
    assert [
        {name: float(value) for name, value in row.items()} for row in rows
    ] == results


def test_the_json_says_what_was_compared(compared):
    told = json.loads((compared / "counts.json").read_text())
    assert (told["num_rows"], told["width"]) == (80, 6)
    assert told["num_seeds"] == 2 and told["kmeans"] == SETTINGS


def test_the_plot_is_a_png_of_some_size(compared):
    content = (compared / "counts.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 10_000


def test_a_comparison_that_fails_leaves_no_directory(features, tmp_path):
    spoilt = features.copy()
    spoilt[3, 2] = np.nan
    np.save(tmp_path / "spoilt.npy", spoilt)
    with pytest.raises(ValueError, match="NaN or infin"):
        cluster_counts.compare(
            str(tmp_path / "spoilt.npy"), ["4"], out_dir=str(tmp_path / "out")
        )
    assert [entry.name for entry in tmp_path.iterdir()] == ["spoilt.npy"]


def test_a_directory_that_is_there_is_not_replaced(path, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="out exists"):
        cluster_counts.compare(path, ["4"], out_dir=str(tmp_path / "out"))


def test_the_table_has_a_line_for_each_number_of_clusters(path, capsys):
    results = cluster_counts.compare(path, ["2", "4"], num_seeds=2, **SETTINGS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:5] == ["clusters", "inertia", "explained", "NMI", "ARI"]
    assert [line.split()[0] for line in lines[1:]] == ["2", "4"]
    assert lines[2].split()[5:8] == ["10", "20", "30"]
    assert [result.num_clusters for result in results] == [2, 4]
