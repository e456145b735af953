"""Kinetics-Sounds, all layers: the 31 classes of Kinetics that can be heard.

Arandjelovic and Zisserman (ICCV 2017) chose the classes, make_manifest
--dataset=kinetics_sounds takes them of Kinetics-400's lists; trained on its training
and tested on its validation clips, by vggsound.py's recipe with more epochs, as there
are fewer clips. No result has been measured here.

    python -m xdc_tf.cli.evaluate --protocol=finetune --fusion \\
        --config=configs/finetune/kinetics_sounds.py --workdir=W --records=TRAIN \\
        --test_records=VALIDATION
"""

import ml_collections

from xdc_tf.configs.finetune import vggsound


def get_config() -> ml_collections.ConfigDict:
    """vggsound.py with values for some 20,000 clips."""
    c = vggsound.get_config()
    c.training.num_epochs = 50
    c.training.held_out_share = 0.05
    return c
