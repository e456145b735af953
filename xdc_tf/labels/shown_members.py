"""Which clusters and which of their members are shown to people, as samples of all."""

from collections.abc import Sequence

import numpy as np

_PURPOSE = b"members"


def draw_priorities(num_rows: int, *, seed: int) -> np.ndarray:
    """[num_rows] float32, random; the lowest of a cluster are its random members.

    They are the same in all rounds and clusterings, so that the same examples are
    drawn again where clusters stay, and fewer pictures and clips are made.

    Args:
      num_rows: of the manifest.
      seed: of the run.
    """
    rng = np.random.default_rng([seed, *_PURPOSE])
    return rng.random(num_rows, np.float32)


def clusters_of_all_sizes(sizes: np.ndarray, number: int) -> list[int]:
    """Clusters from the largest to the smallest, evenly spread by rank of their size.

    Args:
      sizes: [k] examples of each; clusters without any are left out.
      number: how many clusters, at most.
    """
    order = np.argsort(-np.asarray(sizes), kind="stable")
    order = order[np.asarray(sizes)[order] > 0]
    places = np.linspace(0, len(order) - 1, min(number, len(order)))
    return order[np.round(places).astype(int)].tolist()


def random_members(
    labels: np.ndarray,
    clusters: Sequence[int],
    *,
    priorities: np.ndarray,
    among: np.ndarray,
    per_cluster: int,
) -> list[list[int]]:
    """Of each of some clusters the examples of the lowest priority, in its order.

    Args:
      labels: [num_rows] by example_index, -1 for none.
      clusters: whose members are drawn.
      priorities: of draw_priorities.
      among: [n] ascending, the examples that may be drawn.
      per_cluster: how many, at most.
    """
    labels = np.asarray(labels)[among]
    drawn = []
    for cluster in clusters:
        members = among[labels == cluster]
        order = np.argsort(priorities[members], kind="stable")[:per_cluster]
        drawn.append(members[order].tolist())
    return drawn
