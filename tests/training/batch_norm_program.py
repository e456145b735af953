"""One worker of several: batch norm over its own rows, and over all workers'."""

import keras
import numpy as np
import tensorflow as tf


def main(rows_path, out_path):
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    from xdc_tf.models import two_stream
    from xdc_tf.runtime import compat

    rows = tf.constant(np.load(rows_path))
    told = {}
    for name, synchronized in (("own", False), ("all", True)):
        with strategy.scope():
            inputs = keras.Input(rows.shape[1:])
            norm = keras.layers.BatchNormalization(
                momentum=0.0, epsilon=0.0, synchronized=synchronized
            )
            model = keras.Model(inputs, norm(inputs))

        @tf.function
        def forward(model=model):
            return strategy.run(lambda: model(rows, training=True))

        (told[f"{name}_outputs"],) = strategy.experimental_local_results(forward())
        two_stream.average_statistics([model], strategy)
        statistics = compat.tf_variables(model.non_trainable_variables)
        for key, variable in zip(("mean", "variance"), statistics, strict=True):
            (copy,) = strategy.experimental_local_results(variable)
            told[f"{name}_{key}"] = copy.numpy()
    np.savez(out_path, **{key: np.asarray(value) for key, value in told.items()})
