"""The embedded benchmark on two cores: narrow encoders, small clips.

XDC with R(2+1)D-10 and ResNet-10 at an eighth of the width, on records of
data_prep.synthetic made with --fps=8 --short_side=48 (`make demo` runs all of it):

    python -m xdc_tf.cli.pretrain --config=configs/synthetic.py --workdir=W \\
        --records=DIR
"""

import ml_collections

from xdc_tf.configs import base


def get_config() -> ml_collections.ConfigDict:
    """base.py with the benchmark's values."""
    c = base.get_config()

    c.num_rounds = 4
    c.clip.num_frames = 8
    c.clip.fps = 8.0
    c.clip.crop_size = 40
    c.clip.crop_share = 0.875
    c.clip.audio_secs = 2.0

    c.video_encoder.depth = 10
    c.video_encoder.width = 0.125
    c.audio_encoder.depth = 10
    c.audio_encoder.width = 0.125

    c.kmeans.num_clusters = 20
    c.kmeans.num_restarts = 4
    c.features.batch_norm_batches = 20

    c.training.batch_size = 16
    c.training.epochs_per_round = 4
    c.optimizer.learning_rate = 0.05
    c.optimizer.weight_decay = 1e-4
    c.optimizer.warmup_steps = 40
    return c
