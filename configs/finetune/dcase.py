"""DCASE scenes, all layers of an audio encoder, on clips as it was pretrained on.

As esc50.py, with 60 clips per recording at test, which are longer (reported, from
memory, for XDC's own protocol, which fits a support vector machine). With so few
recordings the learning rates fall from stage to stage, and the head starts alone; both
are ours and not tuned. No result has been measured here.

    python -m xdc_tf.cli.evaluate --protocol=finetune \\
        --config=configs/finetune/dcase.py --workdir=W --records=TRAIN \\
        --test_records=TEST
"""

import ml_collections

from xdc_tf.configs.finetune import esc50


def get_config() -> ml_collections.ConfigDict:
    """esc50.py with values for few, long recordings."""
    c = esc50.get_config()
    c.optimizer.layer_decay = 0.7
    c.training.num_epochs = 20
    c.training.head_epochs = 2
    c.training.clips_per_epoch = 4_000
    c.training.held_out_clips = 10
    c.test.num_clips = 60
    return c
