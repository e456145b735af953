"""Every key of a finetuning, with its default; other configs change some values.

An encoder with one linear head is trained on the labels of the training records, all
layers (XDC, Alwassel et al., NeurIPS 2020, "full finetuning") or the head alone
("fc-only"), and scored on the test records by the mean of ten clips:

    python -m xdc_tf.cli.evaluate --protocol=finetune \\
        --config=configs/finetune/base.py --workdir=W --records=TRAIN \\
        --test_records=TEST

xdc_tf/evaluation/finetune_settings.py has the keys with their meaning and range. The
values are no one's recipe: the rates are small enough for any encoder, and the epoch
that counts is chosen by a tenth of the training videos.
"""

import ml_collections

from xdc_tf.evaluation import finetune_settings


def get_config() -> ml_collections.ConfigDict:
    """The configuration; any key can be changed by --config.KEY=VALUE."""
    return ml_collections.ConfigDict(
        finetune_settings.default_config(), convert_dict=True
    )
