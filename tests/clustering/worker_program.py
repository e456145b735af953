"""One worker of several: fits its own rows and saves what it gets.

python worker_program.py ROWS.npy OUT.npz in_memory|in_file
"""

import sys

import numpy as np
import tensorflow as tf


def main(rows_path, out_path, place):
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    from xdc_tf.clustering import kmeans, row_files

    rows = row_files.open_rows(rows_path)
    if place == "in_memory":
        rows = np.array(rows)
    fitted = np.ones(len(rows), bool)
    fitted[3] = False
    result = kmeans.fit(
        rows, num_clusters=6, seed=2, fitted_rows=fitted, strategy=strategy
    )
    whitened = kmeans.fit(
        rows, num_clusters=4, seed=2, pca_components=3, strategy=strategy
    )
    np.savez(
        out_path,
        labels=result.labels,
        centroids=result.centroids,
        sizes=result.sizes,
        inertia=result.inertia,
        whitened_labels=whitened.labels,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
