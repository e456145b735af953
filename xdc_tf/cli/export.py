"""Exports the encoders of a run, or imported weights, usable without this project."""

from absl import flags

from xdc_tf.runtime import program

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run to export.", required=True
)
_OUT = flags.DEFINE_string(
    "out", None, "Directory to make, with a SavedModel per encoder.", required=True
)
_FORMATS = flags.DEFINE_list(
    "formats", [], "Formats beside SavedModel and .keras file: tflite, onnx."
)
_LICENCE = flags.DEFINE_string(
    "licence", None, "Licence of the weights, for the model card; SPDX name or text."
)
_RESULTS = flags.DEFINE_list(
    "results", [], "JSON files by xdc_tf.cli.evaluate, for the model card."
)


def main(argv):
    del argv
    optional = {"licence": _LICENCE.value} if _LICENCE.value else {}
    from xdc_tf.evaluation import reports
    from xdc_tf.export import export_run

    paths = export_run.export(
        _WORKDIR.value,
        _OUT.value,
        formats=_FORMATS.value,
        results=[reports.read(path) for path in _RESULTS.value],
        **optional,
    )
    for path in paths:
        print(f"Exported {path}")


def run():
    program.run(main)


if __name__ == "__main__":
    run()
