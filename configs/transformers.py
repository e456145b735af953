"""XDC with transformers: ViT-S over tubelets, and one like AST-S over log-mel patches.

Clips are of 16 x 224 x 224 frames and 2 s of sound; AdamW with warm-up, stochastic
depth and clipped gradients, as transformers are trained. Settings of the encoders are
those of xdc_tf/models/transformer.py:

    python -m xdc_tf.cli.pretrain --config=configs/transformers.py --workdir=W \\
        --records=DIR

What XDC's authors had were residual networks; no published run has these settings.
"""

import ml_collections

from xdc_tf.configs import base


def video_encoder(**changes) -> ml_collections.ConfigDict:
    """Settings of a ViT, with some changed."""
    return ml_collections.ConfigDict(
        {
            "architecture": "vit",
            "size": "S",  # Ti, S or B
            "depth": 12,
            "tubelet": 2,
            "patch": 16,
            "attention": "joint",  # or divided
            "pool": "mean",  # mean_then_norm, or class with class_tokens=1
            "class_tokens": 0,
            "register_tokens": 0,
            "drop_path": 0.1,
        }
        | changes
    )


def audio_encoder(**changes) -> ml_collections.ConfigDict:
    """Settings of a transformer over log-mel, with some changed."""
    return ml_collections.ConfigDict(
        {
            "architecture": "ast",
            "size": "S",
            "depth": 12,
            # 40 filters are three patches that overlap, as those of AST do.
            "patch": 16,
            "stride": 10,
            "pool": "mean",
            "class_tokens": 0,
            "register_tokens": 0,
            "drop_path": 0.1,
        }
        | changes
    )


def use_adamw(c: ml_collections.ConfigDict) -> None:
    """Sets the optimizer, in place."""
    c.optimizer.name = "adamw"
    c.optimizer.learning_rate = 5e-4
    c.optimizer.reference_batch_size = 0
    c.optimizer.weight_decay = 0.05
    c.optimizer.clip_norm = 1.0


def get_config() -> ml_collections.ConfigDict:
    """base.py with the transformers."""
    c = base.get_config()
    c.clip.num_frames = 16
    c.clip.fps = 15.0
    c.clip.crop_size = 224
    c.video_encoder = video_encoder()
    c.audio_encoder = audio_encoder()
    use_adamw(c)
    return c
