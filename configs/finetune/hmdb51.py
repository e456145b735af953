"""HMDB51, all layers of a video encoder: 32 frames of 112 x 112.

XDC (Alwassel et al., NeurIPS 2020), by VMZ's recipe as in ucf101.py, but for a learning
rate of 1.6e-3 and 40,000 clips an epoch. Expected, top1, mean of three splits, as the
authors report it for their released models of R(2+1)D-18 (not run here): pretrained on
IG-Kinetics 68.9, IG-Random 66.5, AudioSet 63.7; supervised on Kinetics 65.1.

    python -m xdc_tf.cli.evaluate --protocol=finetune \\
        --config=configs/finetune/hmdb51.py --workdir=W \\
        --records=SPLIT1_TRAIN,SPLIT2_TRAIN,SPLIT3_TRAIN \\
        --test_records=SPLIT1_TEST,SPLIT2_TEST,SPLIT3_TEST
"""

import ml_collections

from xdc_tf.configs.finetune import ucf101


def get_config() -> ml_collections.ConfigDict:
    """ucf101.py with VMZ's values for HMDB51."""
    c = ucf101.get_config()
    c.optimizer.head_learning_rate = 1.6e-3
    c.optimizer.encoder_learning_rate = 1.6e-3
    c.training.clips_per_epoch = 40_000
    return c
