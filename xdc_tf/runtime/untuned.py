"""Data sets without tf.data's autotuning."""

import tensorflow as tf


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """A data set whose iterators end at once.

    Autotuning has a thread that sleeps for up to a minute between its looks, longer the
    longer an iterator lives. Letting the iterator go wakes it, but often before it can
    see that it is to end, and is then waited for until its next look. All that it could
    tune here is set by hand.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
