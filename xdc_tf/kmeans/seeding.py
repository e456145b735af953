"""Where k-means starts: greedy k-means++ on a sample of the rows.

Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.
Greedy: of several rows drawn by squared distance, the one that lowers the objective
most is taken. Candidates of several steps are drawn together, so that their distances
come from a single matmul; those of later steps come from slightly older distances.
"""

import tensorflow as tf

# Steps whose candidates are drawn together, as a fraction of all: one in so many.
_STEPS_AT_ONCE = 32
_MOST_STEPS_AT_ONCE = 16


def plus_plus(rows: tf.Tensor, seed: tf.Tensor, num_clusters: int) -> tf.Tensor:
    """Chooses rows to start from, inside a `tf.function`.

    Args:
      rows: [s, d] float32, at least num_clusters.
      seed: [2] int64.
      num_clusters: k.

    Returns:
      [k, d] centroids.
    """
    num_rows = rows.shape[0]
    num_candidates = 2 + (num_clusters.bit_length() * 7) // 10  # ln 2 is about 0.7
    steps = min(_MOST_STEPS_AT_ONCE, max(1, num_clusters // _STEPS_AT_ONCE))
    num_rounds = -(-(num_clusters - 1) // steps)
    norms = tf.reduce_sum(rows**2, axis=1)
    uniform = tf.random.stateless_uniform(
        [1 + num_rounds, steps * num_candidates], seed, dtype=tf.float64, alg="philox"
    )

    def distances_to(indices):
        inner = tf.matmul(tf.gather(rows, indices), rows, transpose_b=True)
        squared = norms - 2.0 * inner + tf.gather(norms, indices)[:, tf.newaxis]
        return tf.maximum(squared, 0.0)  # [candidates, s]

    def draw_together(number, chosen, closest):
        cumulative = tf.cumsum(tf.cast(closest, tf.float64))
        # int64: a GPU would have TensorFlow go back and forth to the host for int32.
        drawn = tf.searchsorted(
            cumulative,
            uniform[number + 1] * cumulative[-1],
            side="right",
            out_type=tf.int64,
        )
        drawn = tf.minimum(drawn, num_rows - 1)
        distances = distances_to(drawn)
        picked = []
        for step in range(steps):
            candidates = slice(step * num_candidates, (step + 1) * num_candidates)
            reduced = tf.minimum(distances[candidates], closest)
            best = tf.argmin(tf.reduce_sum(reduced, axis=1))
            picked.append(tf.gather(drawn[candidates], best))
            closest = tf.gather(reduced, best)
        return number + 1, chosen.write(number, tf.stack(picked)), closest

    first = tf.cast(uniform[0, :1] * num_rows, tf.int64)
    _, chosen, _ = tf.while_loop(
        lambda number, *_: number < num_rounds,
        draw_together,
        (
            0,
            tf.TensorArray(tf.int64, size=num_rounds, element_shape=[steps]),
            distances_to(first)[0],
        ),
    )
    chosen = tf.concat([first, chosen.concat()], axis=0)[:num_clusters]
    return tf.gather(rows, chosen)
