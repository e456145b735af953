"""UCF101 by the recipe of SeLaVi: a head that learns ten times as fast.

SeLaVi (Asano et al., NeurIPS 2020), by its code: 32 frames, batches of 32, learning
rates 2.5e-3 for the head and 2.5e-4 for the encoder, weight decay 5e-3, 12 epochs, 2 of
warm-up, rates x 0.05 after 6 and 10. How many clips an epoch has is ours: each video
once. No result has been measured here.

    python -m xdc_tf.cli.evaluate --protocol=finetune \\
        --config=configs/finetune/ucf101_selavi.py --workdir=W --records=TRAIN \\
        --test_records=TEST
"""

import ml_collections

from xdc_tf.configs.finetune import base


def get_config() -> ml_collections.ConfigDict:
    """base.py with SeLaVi's values."""
    c = base.get_config()
    c.clip.num_frames = 32
    c.clip.crop_size = 112
    c.optimizer.head_learning_rate = 2.5e-3
    c.optimizer.encoder_learning_rate = 2.5e-4
    c.optimizer.weight_decay = 5e-3
    c.optimizer.schedule = "steps"
    c.optimizer.warmup_epochs = 2.0
    c.optimizer.milestones = (6, 10)
    c.optimizer.decay_factor = 0.05
    c.training.batch_size = 32
    c.training.num_epochs = 12
    c.training.held_out_share = 0.0
    return c
