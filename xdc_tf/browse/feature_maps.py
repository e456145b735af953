"""Maps of features in two dimensions, and the nearest neighbours of what is shown."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import threadpoolctl

from xdc_tf.features import run_matrices
from xdc_tf.features.run_matrices import Matrix
from xdc_tf.labels.pseudo_labels import side_by_side

MOST_SAMPLED = 10_000
NUM_NEIGHBOURS = 10
_COMPONENTS = 50
_PERPLEXITY = 30.0
_TSNE_THREADS = 2
_ITERATIONS = 750
_BLOCK_ROWS = 1024
_ROWS_READ = 256
_PURPOSE = b"map"


class FeatureMap(NamedTuple):
    """Places of a sample of examples.

    Attributes:
      examples: [n] ascending.
      places: [n, 2] float32.
      method: how they were found, for people.
    """

    examples: np.ndarray
    places: np.ndarray
    method: str


def choose_sample(
    present: np.ndarray, shown: Sequence[int], *, seed: int, size: int = MOST_SAMPLED
) -> np.ndarray:
    """Ascending examples for a map: those that are shown first, then random ones.

    Args:
      present: [num_rows] bool, the rows that have features.
      shown: examples that have a clip.
      seed: of the run.
      size: how many, at most.
    """
    priorities = np.random.default_rng([seed, *_PURPOSE]).random(len(present))
    priorities[np.asarray(shown, np.int64)] -= 1
    candidates = np.flatnonzero(present)
    if len(candidates) > size:
        lowest = np.argpartition(priorities[candidates], size - 1)[:size]
        candidates = np.sort(candidates[lowest])
    return candidates


def read_rows(streams: Sequence[Matrix], examples: np.ndarray) -> np.ndarray:
    """[n, D] float32, the features of some examples, those of streams side by side."""
    rows = []
    for start in range(0, max(len(examples), 1), _ROWS_READ):
        block = examples[start : start + _ROWS_READ]
        rows.append(
            side_by_side([np.asarray(stream[block], np.float32) for stream in streams])
        )
        # Rows far apart each bring what lies around them into memory.
        for stream in streams:
            run_matrices.give_back(stream)
    return np.concatenate(rows)


def make_map(features: np.ndarray, examples: np.ndarray, *, seed: int) -> FeatureMap:
    """Places examples by PCA, and then by t-SNE where there are enough of them.

    The same features and seed give the same places on a machine: t-SNE runs in two
    threads, whose sums do not depend on which of them is first.

    Args:
      features: [n, D] float32, scaled to length one before anything else.
      examples: [n], whose they are.
      seed: of the run.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rows = unit_rows(features)
    num_components = min(_COMPONENTS, *rows.shape)
    if len(rows) < 5 or num_components < 2:
        places = np.zeros((len(rows), 2), np.float32)
        if len(rows) > 1:
            reduced = PCA(min(2, num_components), svd_solver="full").fit_transform(rows)
            places[:, : reduced.shape[1]] = reduced
        return FeatureMap(examples, places, "PCA to 2")
    random_state = int(np.random.default_rng([seed, *_PURPOSE]).integers(1 << 31))
    perplexity = min(_PERPLEXITY, (len(rows) - 1) / 3)
    threads = {"openmp": _TSNE_THREADS, "blas": 1}
    with threadpoolctl.threadpool_limits(threads):
        reduced = PCA(num_components, svd_solver="full").fit_transform(rows)
        places = TSNE(
            perplexity=perplexity,
            init="pca",
            random_state=random_state,
            max_iter=_ITERATIONS,
            n_jobs=1,
        ).fit_transform(reduced.astype(np.float32))
    method = f"PCA to {num_components}, t-SNE (perplexity {perplexity:.3g})"
    return FeatureMap(examples, places, method)


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows scaled to length one; zero rows stay."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1)


def nearest_neighbours(
    features: np.ndarray, examples: np.ndarray
) -> dict[str, list[list[float]]]:
    """The nearest of the same examples to each of them, by cosine.

    Args:
      features: [n, D] float32.
      examples: [n], whose they are.

    Returns:
      By example, as text: NUM_NEIGHBOURS of [example, cosine], nearest first.
    """
    rows = unit_rows(features).astype(np.float32)
    number = min(NUM_NEIGHBOURS, len(rows) - 1)
    neighbours: dict[str, list[list[float]]] = {}
    for start in range(0, len(rows), _BLOCK_ROWS):
        cosines = rows[start : start + _BLOCK_ROWS] @ rows.T
        places = np.arange(len(cosines))
        cosines[places, places + start] = -np.inf
        kept = np.sort(np.argpartition(-cosines, number, axis=1)[:, :number])
        values = np.take_along_axis(cosines, kept, axis=1)
        # Of equals the lower number.
        order = np.argsort(-values, axis=1, kind="stable")
        nearest = np.take_along_axis(kept, order, axis=1)
        for place in places:
            neighbours[str(examples[start + place])] = [
                [int(examples[other]), round(float(cosines[place, other]), 4)]
                for other in nearest[place]
            ]
    return neighbours
