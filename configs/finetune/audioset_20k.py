"""AudioSet-20k, all layers: several labels per clip, 10 s of sound, mAP.

The balanced training segments, tested on the evaluation segments (Gemmeke et al. 2017).
The recipe is that of AST (Gong et al. 2021) for this set: Adam with learning rate 5e-5,
batches of 12, 25 epochs, the rate halved after the 10th and each 5th epoch from there,
SpecAugment's masks of up to 48 of 128 filters and 192 of 1024 rows, here as many of 40
and 500; the epoch that counts is the last. AST also mixes pairs of clips (mixup), which
is not done here, and pads shorter recordings with silence, where these repeat their
beginning. Published: AST from ImageNet weights, mAP 34.7. No result has been measured
here.

Video has clips as the encoder was pretrained on, ten spread over the 10 s. Sound has
all of them in one clip, so that --num_clips=1 gives the same for audio alone in a tenth
of the time.

    python -m xdc_tf.cli.evaluate --protocol=finetune --fusion \\
        --config=configs/finetune/audioset_20k.py --workdir=W \\
        --records=BALANCED_TRAIN --test_records=EVAL
"""

import ml_collections

from xdc_tf.configs.finetune import base


def get_config() -> ml_collections.ConfigDict:
    """base.py with AST's values for the balanced set."""
    c = base.get_config()
    c.clip.audio_secs = 10.0
    c.augmentation.frequency_mask = 15
    c.augmentation.time_mask = 94
    c.optimizer.name = "adamw"
    c.optimizer.weight_decay = 5e-7
    c.optimizer.head_learning_rate = 5e-5
    c.optimizer.encoder_learning_rate = 5e-5
    c.optimizer.schedule = "steps"
    c.optimizer.milestones = (10, 15, 20)
    c.optimizer.decay_factor = 0.5
    c.training.batch_size = 12
    c.training.num_epochs = 25
    c.training.held_out_share = 0.0
    c.test.num_clips = 10
    return c
