"""Settings of clips for encoders, for tests that need no others."""

from collections.abc import Sequence

from xdc_tf.data.clips import ClipSettings


def clip_of(*shapes: Sequence[int]) -> ClipSettings:
    """Of clips [T, side, side, 3], of log-mel [frames, filters, 1], or of both."""
    shape_of = {4: (4, 16, 16, 3), 3: (20, 40, 1)} | {len(s): s for s in shapes}
    num_frames, side = shape_of[4][:2]
    rows, num_mels = shape_of[3][:2]
    return ClipSettings(
        num_frames=num_frames,
        fps=4.0,
        crop_size=side,
        crop_share=1.0,
        audio_secs=rows / 100,
        mel_hop_secs=0.01,
        num_mels=num_mels,
        log_mel_mean=0.0,
        log_mel_std=1.0,
    )
