"""Every key of a run's configuration, with the paper's setting where it is known.

xdc_tf/training/configuration.py has the keys with their meaning and range: XDC
(Alwassel et al., NeurIPS 2020), R(2+1)D-18 on 8 x 112 x 112 clips and ResNet-18 on 2 s
of 40-filter log-mel, SGD with momentum. Other recipes change some values:

    python -m xdc_tf.cli.pretrain --config=configs/base.py --workdir=W --records=DIR
"""

import ml_collections

from xdc_tf.training import configuration


def get_config() -> ml_collections.ConfigDict:
    """The configuration; any key can be changed by --config.KEY=VALUE."""
    return ml_collections.ConfigDict(
        configuration.to_mapping(configuration.Config()), convert_dict=True
    )
