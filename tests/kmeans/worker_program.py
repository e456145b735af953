"""One worker of several: fits its own rows, in memory and in their file."""

import numpy as np
import tensorflow as tf


def main(rows_path, out_path):
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    from xdc_tf.kmeans import kmeans, matrices

    in_file = matrices.open_rows(rows_path)
    fitted = np.ones(len(in_file), bool)
    fitted[3] = False
    told = {}
    for place, rows in {"in_memory": np.array(in_file), "in_file": in_file}.items():
        result = kmeans.fit(
            rows, num_clusters=6, seed=2, fitted_rows=fitted, strategy=strategy
        )
        # As wide as without whitening, so that it is not traced anew.
        whitened = kmeans.fit(
            rows, num_clusters=6, seed=2, pca_components=5, strategy=strategy
        )
        told |= {
            f"{place}_labels": result.labels,
            f"{place}_centroids": result.centroids,
            f"{place}_sizes": result.sizes,
            f"{place}_inertia": result.inertia,
            f"{place}_whitened_labels": whitened.labels,
        }
    np.savez(out_path, **told)
