"""ESC-50, all layers of an audio encoder, on clips as it was pretrained on.

The paper (XDC, Alwassel et al., NeurIPS 2020) fits a support vector machine to features
of the frozen encoder, which is another protocol; this is finetuning on the same five
folds, ten clips per recording at test. The rates are ours and not tuned; SpecAugment's
masks, 3 filters and 6 rows, are those of GDT (Patrick et al. 2020). No result has been
measured here.

    python -m xdc_tf.cli.evaluate --protocol=finetune \\
        --config=configs/finetune/esc50.py --workdir=W \\
        --records=FOLD1_TRAIN,FOLD2_TRAIN,FOLD3_TRAIN,FOLD4_TRAIN,FOLD5_TRAIN \\
        --test_records=FOLD1_TEST,FOLD2_TEST,FOLD3_TEST,FOLD4_TEST,FOLD5_TEST
"""

import ml_collections

from xdc_tf.configs.finetune import base


def get_config() -> ml_collections.ConfigDict:
    """base.py with values for short recordings."""
    c = base.get_config()
    c.augmentation.frequency_mask = 3
    c.augmentation.time_mask = 6
    c.model.dropout = 0.3
    c.optimizer.head_learning_rate = 0.01
    c.optimizer.encoder_learning_rate = 0.002
    c.optimizer.weight_decay = 5e-4
    c.optimizer.schedule = "cosine"
    c.optimizer.warmup_epochs = 1.0
    c.training.batch_size = 32
    c.training.num_epochs = 30
    c.training.clips_per_epoch = 8_000  # each of 1600 recordings five times
    c.test.num_clips = 10
    return c
