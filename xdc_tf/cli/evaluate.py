"""Evaluates the encoders of a run on labelled records."""

import json
import os

from absl import flags

from xdc_tf import program

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run to evaluate.", required=True
)
_RECORDS = flags.DEFINE_string(
    "records", None, "Labelled records to fit the classifier to.", required=True
)
_TEST_RECORDS = flags.DEFINE_string(
    "test_records", None, "Labelled records of other videos to test on.", required=True
)
_PROTOCOL = flags.DEFINE_enum(
    "protocol", "linear", ["linear"], "linear: logistic regression on frozen features."
)
_NUM_CLIPS = flags.DEFINE_integer(
    "num_clips", 3, "Clips per video whose features are averaged.", lower_bound=1
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Clips per batch; default: as in the run.", lower_bound=1
)
_JSON = flags.DEFINE_string("json", None, "File to write the results to as JSON.")


def main(argv):
    del argv
    from xdc_tf import files, workdir
    from xdc_tf.evaluation import linear

    if _JSON.value:
        # Now, so that a mistake in it does not cost the evaluation.
        os.makedirs(os.path.dirname(os.path.abspath(_JSON.value)), exist_ok=True)
    results = linear.evaluate(
        _WORKDIR.value,
        train_dir=_RECORDS.value,
        test_dir=_TEST_RECORDS.value,
        num_clips=_NUM_CLIPS.value,
        batch_size=_BATCH_SIZE.value,
    )
    method = workdir.read_config(_WORKDIR.value)["method"]
    print(linear.table(results, method=method))
    if _JSON.value:
        report = {
            "protocol": _PROTOCOL.value,
            "workdir": _WORKDIR.value,
            "method": method,
            "records": _RECORDS.value,
            "test_records": _TEST_RECORDS.value,
            "num_clips": _NUM_CLIPS.value,
            "results": [result._asdict() for result in results],
        }
        files.write_text(_JSON.value, json.dumps(report, indent=2) + "\n")


def run():
    program.run(main)


if __name__ == "__main__":
    run()
