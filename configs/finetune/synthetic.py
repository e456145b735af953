"""The embedded benchmark on two cores, with encoders of configs/synthetic.py.

    python -m xdc_tf.cli.evaluate --protocol=finetune \\
        --config=configs/finetune/synthetic.py --workdir=W --records=TRAIN \\
        --test_records=TEST
"""

import ml_collections

from xdc_tf.configs.finetune import base


def get_config() -> ml_collections.ConfigDict:
    """base.py with the benchmark's values."""
    c = base.get_config()
    c.optimizer.head_learning_rate = 0.05
    c.optimizer.encoder_learning_rate = 0.05
    c.optimizer.weight_decay = 1e-4
    c.optimizer.warmup_epochs = 0.5
    c.training.batch_size = 16
    c.training.num_epochs = 6
    c.training.held_out_clips = 1
    c.test.num_clips = 3
    return c
