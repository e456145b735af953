"""VGGSound, all layers: 309 classes, 10 s of sound, top-1 and mean per class.

Segments of 10 s with one label each (Chen et al. 2020), trained and tested on their
published split. Clips are those of audioset_20k.py, the rates and the number of epochs
ours and not tuned. No result has been measured here.

    python -m xdc_tf.cli.evaluate --protocol=finetune --fusion \\
        --config=configs/finetune/vggsound.py --workdir=W --records=TRAIN \\
        --test_records=TEST
"""

import ml_collections

from xdc_tf.configs.finetune import base


def get_config() -> ml_collections.ConfigDict:
    """base.py with values for segments of 10 s."""
    c = base.get_config()
    c.clip.audio_secs = 10.0
    c.augmentation.frequency_mask = 15
    c.augmentation.time_mask = 94
    c.optimizer.head_learning_rate = 0.01
    c.optimizer.encoder_learning_rate = 0.001
    c.optimizer.weight_decay = 1e-4
    c.optimizer.warmup_epochs = 1.0
    c.training.batch_size = 32
    c.training.num_epochs = 20
    c.training.held_out_share = 0.01
    c.training.held_out_clips = 1
    c.test.num_clips = 10
    return c
