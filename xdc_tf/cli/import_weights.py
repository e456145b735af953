"""Makes a work directory of released weights: PyTorch's .pth or Caffe2's .pkl."""

from absl import flags

from xdc_tf import program

_WEIGHTS = flags.DEFINE_string("weights", None, "The weight file.", required=True)
_OUT = flags.DEFINE_string("out", None, "Work directory to make.", required=True)
_ARCH = flags.DEFINE_string(
    "arch",
    "auto",
    "auto, r2plus1d (XDC, IG-65M), r2plus1d_torchvision (also SeLaVi, GDT), r3d, mc3 "
    "or r2plus1d_avid.",
)
_PREFIX = flags.DEFINE_string(
    "prefix", None, "What comes before the video encoder's names; found by default."
)
_PARTIAL = flags.DEFINE_bool(
    "partial", False, "Load what fits, and leave the rest as randomly initialised."
)
_WITH_TORCH = flags.DEFINE_bool(
    "with_torch", False, "Read by torch.load(weights_only=True); needs PyTorch."
)
_NUM_FRAMES = flags.DEFINE_integer("num_frames", None, "Frames per clip.")
_FPS = flags.DEFINE_float("fps", None, "Frames per second within a clip.")
_CROP_SIZE = flags.DEFINE_integer("crop_size", None, "Side of the crop in pixels.")


def main(argv):
    del argv
    from xdc_tf.weights.import_weights import import_weights

    asked = {
        "num_frames": _NUM_FRAMES.value,
        "fps": _FPS.value,
        "crop_size": _CROP_SIZE.value,
    }
    found = import_weights(
        _WEIGHTS.value,
        _OUT.value,
        architecture=_ARCH.value,
        prefix=_PREFIX.value,
        partial=_PARTIAL.value,
        with_torch=_WITH_TORCH.value,
        clip={key: value for key, value in asked.items() if value is not None},
    )
    network, account = found.network, found.account
    print(
        f"{_WEIGHTS.value}: {network.architecture}, depth {network.depth}, under "
        f"{network.prefix or 'no prefix'!r}, names of {network.layout}"
        + (
            f", a classifier of {found.num_classes} classes"
            if found.num_classes
            else ""
        )
    )
    print(f"  {len(account.loaded)} tensors loaded, {account.counters} counters")
    for kind in ("missing", "mismatched", "unused", "beside"):
        for name, shape in getattr(account, kind).items():
            print(f"  {kind}: {name} {shape}")
    print(f"Imported to {_OUT.value}")


def run():
    program.run(main)


if __name__ == "__main__":
    run()
