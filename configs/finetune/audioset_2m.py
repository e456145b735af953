"""AudioSet-2M, all layers: as audioset_20k.py, on all training segments.

The unbalanced and the balanced training segments (--split=train of make_manifest), by
AST's recipe for them (Gong et al. 2021): learning rate 1e-5, 5 epochs, the rate halved
after the 2nd and each epoch from there, and balanced sampling, which draws a clip in
proportion to the sum over its labels of 1 / the label's clips. Published: AST from
ImageNet weights, mAP 45.9. No result has been measured here.

    python -m xdc_tf.cli.evaluate --protocol=finetune --fusion \\
        --config=configs/finetune/audioset_2m.py --workdir=W --records=TRAIN \\
        --test_records=EVAL
"""

import ml_collections

from xdc_tf.configs.finetune import audioset_20k


def get_config() -> ml_collections.ConfigDict:
    """audioset_20k.py with AST's values for the full set."""
    c = audioset_20k.get_config()
    c.optimizer.head_learning_rate = 1e-5
    c.optimizer.encoder_learning_rate = 1e-5
    c.optimizer.milestones = (2, 3, 4)
    c.training.num_epochs = 5
    c.training.balanced_sampling = True
    return c
