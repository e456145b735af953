"""Kinetics, all layers of a video encoder, on clips as it was pretrained on.

VMZ's recipe for training R(2+1)D on Kinetics: batches of 32, learning rate 0.01 after a
warm-up, weight decay 1e-4, a million clips an epoch, the rate divided by 10 every 10
epochs. The length of the warm-up, 1 epoch, and of the training, 40, are ours. For the
head alone add --config.frozen. No result has been measured here.

    python -m xdc_tf.cli.evaluate --protocol=finetune \\
        --config=configs/finetune/kinetics.py --workdir=W --records=TRAIN \\
        --test_records=VALIDATION
"""

import ml_collections

from xdc_tf.configs.finetune import base


def get_config() -> ml_collections.ConfigDict:
    """base.py with VMZ's values for Kinetics."""
    c = base.get_config()
    c.optimizer.head_learning_rate = 0.01
    c.optimizer.encoder_learning_rate = 0.01
    c.optimizer.weight_decay = 1e-4
    c.optimizer.schedule = "steps"
    c.optimizer.warmup_epochs = 1.0
    c.optimizer.milestones = (10, 20, 30)
    c.optimizer.decay_factor = 0.1
    c.training.batch_size = 32
    c.training.num_epochs = 40
    c.training.clips_per_epoch = 1_000_000
    c.training.held_out_share = 0.01
    c.training.held_out_clips = 1
    return c
