"""Writes an encoder as a PyTorch state dict, NAME.pth, and NAME.json about it."""

from absl import flags

from xdc_tf.runtime import program

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run or of imported weights.", required=True
)
_OUT = flags.DEFINE_string("out", None, "File to make, ending in .pth.", required=True)
_STREAM = flags.DEFINE_string(
    "stream", "video", "Encoder to export: video, audio, video2 or audio2."
)


def main(argv):
    del argv
    import json

    from xdc_tf.export import torch_export

    description = torch_export.export(_WORKDIR.value, _OUT.value, stream=_STREAM.value)
    print(json.dumps(description, indent=2))
    if description["num_classes"] is None and "transformers" not in description:
        print("Without a classifier: in PyTorch, set model.fc = torch.nn.Identity().")
    print(f"Exported {_OUT.value}; docs/pytorch.md says how to open it.")


def run():
    program.run(main)


if __name__ == "__main__":
    run()
