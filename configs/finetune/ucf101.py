"""UCF101, all layers of a video encoder: 32 frames of 112 x 112.

XDC (Alwassel et al., NeurIPS 2020). The recipe is that of VMZ, the code base that XDC's
authors built on: 32 frames, weight decay 5e-3, learning rate 8e-4 for batches of 32,
8 epochs of 100,000 clips, the rate divided by 10 every 2. It trains on all videos of a
split and takes the last epoch: videos of one group are cuts of one recording, so that a
held-out share would tell little. Expected, top1, mean of three splits, as the authors
report it for their released models of R(2+1)D-18 (not run here): pretrained on
IG-Kinetics 95.5, IG-Random 94.6, AudioSet 93.0; supervised on Kinetics 94.2.

    python -m xdc_tf.cli.evaluate --protocol=finetune \\
        --config=configs/finetune/ucf101.py --workdir=W \\
        --records=SPLIT1_TRAIN,SPLIT2_TRAIN,SPLIT3_TRAIN \\
        --test_records=SPLIT1_TEST,SPLIT2_TEST,SPLIT3_TEST
"""

import ml_collections

from xdc_tf.configs.finetune import base


def get_config() -> ml_collections.ConfigDict:
    """base.py with VMZ's values for UCF101."""
    c = base.get_config()
    c.clip.num_frames = 32
    c.clip.crop_size = 112
    c.optimizer.head_learning_rate = 8e-4
    c.optimizer.encoder_learning_rate = 8e-4
    c.optimizer.weight_decay = 5e-3
    c.optimizer.schedule = "steps"
    c.optimizer.milestones = (2, 4, 6)
    c.optimizer.decay_factor = 0.1
    c.training.batch_size = 32
    c.training.num_epochs = 8
    c.training.clips_per_epoch = 100_000
    c.training.held_out_share = 0.0
    return c
