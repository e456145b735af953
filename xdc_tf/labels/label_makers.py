"""The ways to make labels of a round's features, as one table.

A further way takes a module of its own, a row of LABEL_MAKERS, and a method that names
it (training.supervision.METHODS). Label tables, health, monitoring, evaluation of
clusters and labels of new videos need nothing else.
"""

from collections.abc import Callable
from typing import NamedTuple

from xdc_tf.labels import pseudo_labels
from xdc_tf.labels.label_tables import Clustering


class LabelMaker(NamedTuple):
    """A row of LABEL_MAKERS.

    Attributes:
      fit: fit(features, sources, *, fitted_rows, settings, seed, strategy) -> for each
        label source settings.num_heads Clusterings by label_tables.clustering_name. Of
        the arguments see pseudo_labels.cluster; `settings` are those of config.kmeans.
        A Clustering's labels are of all rows of `features`, from 0 to
        settings.num_clusters - 1, -1 for none; its centroids label further examples.
        With several processes each has the features of its own examples, and all call
        `fit` together.
    """

    fit: Callable[..., dict[str, Clustering]]


LABEL_MAKERS = {"kmeans": LabelMaker(pseudo_labels.cluster)}
