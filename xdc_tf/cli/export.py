"""Exports the encoders of a run as SavedModels."""

from absl import flags, logging

from xdc_tf import program

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run to export.", required=True
)
_OUT = flags.DEFINE_string(
    "out", None, "Directory to make, with a SavedModel per encoder.", required=True
)


def main(argv):
    del argv
    from xdc_tf.export import saved_model

    # TensorFlow narrates the saving at this level.
    logging.set_verbosity(logging.WARNING)
    for path in saved_model.export(_WORKDIR.value, _OUT.value):
        print(f"Exported {path}")


def run():
    program.run(main)


if __name__ == "__main__":
    run()
