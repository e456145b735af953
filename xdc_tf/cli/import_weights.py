"""Makes a work directory of released weights: .pth, .safetensors or Caffe2's .pkl."""

import importlib.util

from absl import flags

from xdc_tf.runtime import program

_WEIGHTS = flags.DEFINE_string("weights", None, "The weight file.", required=True)
_OUT = flags.DEFINE_string("out", None, "Work directory to make.", required=True)
_ARCH = flags.DEFINE_string(
    "arch",
    "auto",
    "auto, r2plus1d (XDC, IG-65M), r2plus1d_torchvision (also SeLaVi, GDT), r3d, mc3 "
    "or r2plus1d_avid; auto also finds DINOv2, VideoMAE and AST.",
)
_PREFIX = flags.DEFINE_string(
    "prefix", None, "Text before the encoder's tensor names; default: detected."
)
_PARTIAL = flags.DEFINE_bool(
    "partial", False, "Load what fits, and leave the rest as randomly initialised."
)
_WITH_TORCH = flags.DEFINE_bool(
    "with_torch",
    False,
    "Read the file by torch.load(weights_only=True); needs PyTorch.",
)
_NUM_FRAMES = flags.DEFINE_integer("num_frames", None, "Frames per clip.")
_FPS = flags.DEFINE_float("fps", None, "Frames per second within a clip.")
_AUDIO_SECS = flags.DEFINE_float("audio_secs", None, "Seconds of audio per clip.")
_CROP_SIZE = flags.DEFINE_integer("crop_size", None, "Side of the crop in pixels.")


def main(argv):
    del argv
    if _WITH_TORCH.value and importlib.util.find_spec("torch") is None:
        raise ValueError(
            "--with_torch needs PyTorch, which is not installed; install it, or leave "
            "the flag out to read the file without."
        )
    from xdc_tf.runtime import workdir
    from xdc_tf.weights.import_weights import import_weights

    clip = {
        "num_frames": _NUM_FRAMES.value,
        "fps": _FPS.value,
        "crop_size": _CROP_SIZE.value,
        "audio_secs": _AUDIO_SECS.value,
    }
    imported = import_weights(
        _WEIGHTS.value,
        _OUT.value,
        architecture=_ARCH.value,
        prefix=_PREFIX.value,
        partial=_PARTIAL.value,
        with_torch=_WITH_TORCH.value,
        clip={key: value for key, value in clip.items() if value is not None},
    )
    network, account = imported.network, imported.account
    print(
        f"{_WEIGHTS.value}: {network.title}"
        + (f" under {network.prefix!a}" if network.prefix else "")
        + (f", a classifier of {imported.num_classes}" if imported.num_classes else "")
    )
    print(f"  {len(account.loaded)} tensors loaded")
    for name, shape in account.missing.items():
        print(f"  missing, left as initialised: {name!a} {shape}")
    for name, (in_file, in_encoder) in account.mismatched.items():
        print(
            f"  of another shape, left as initialised: {name!a} {in_file} for "
            f"{in_encoder}"
        )
    for name, shape in account.unused.items():
        print(f"  without a place, not used: {name!a} {shape}")
    print(f"  {len(account.counters)} counters of batches, not needed")
    print(f"  {len(account.beside)} tensors beside the encoder, not used")
    print(f"Imported to {_OUT.value}; its {workdir.IMPORT_FILE} lists every tensor.")


def run():
    program.run(main)


if __name__ == "__main__":
    run()
