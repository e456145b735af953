"""Shows what records hold, writes examples of them, and checks every byte.

    python -m data_prep.inspect --records=records/
    python -m data_prep.inspect --records=records/ --out=looks/ --index=3 --index=17
    python -m data_prep.inspect --records=records/ --verify

prints counts, durations, labels and storage; writes example_N.png, frames above the
log-mel, and example_N.wav; or reads everything and names each fault's shard and record
(exit code 1 if there is one).
"""

from absl import flags

from xdc_tf.runtime import program

_RECORDS = flags.DEFINE_string(
    "records",
    None,
    "Directory of records, local or remote (such as s3://...).",
    required=True,
)
_INDEX = flags.DEFINE_multi_integer(
    "index", [], "An example_index to draw, needs --out; may be repeated."
)
_OUT = flags.DEFINE_string(
    "out", None, "Local directory for figures and audio; of 4 examples by default."
)
_VERIFY = flags.DEFINE_bool(
    "verify", False, "Read everything and print whatever is wrong."
)

_NUM_EXAMPLES = 4


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    del argv
    if _VERIFY.value and (_INDEX.value or _OUT.value):
        raise ValueError("--verify checks all examples; drop --index and --out.")
    if _INDEX.value and not _OUT.value:
        raise ValueError("--index needs --out, the directory for its figure.")
    # Late, so that --help answers at once.
    from data_prep.inspection import record_summary, record_tables, record_verification
    from xdc_tf.data import example_tables

    records_dir = _RECORDS.value
    if _VERIFY.value:
        return int(record_verification.verify(records_dir) > 0)
    info = record_tables.read_info(records_dir)
    examples = example_tables.read_examples(records_dir)
    for line in record_summary.describe(records_dir, info, examples):
        print(line)
    if _OUT.value:
        # Later still: matplotlib and SciPy take a second.
        from data_prep.inspection import example_files, record_tables

        indices = list(dict.fromkeys(_INDEX.value))
        example_files.save_examples(
            records_dir,
            info,
            examples,
            indices=indices or record_tables.spread_indices(examples, _NUM_EXAMPLES),
            out_dir=_OUT.value,
        )
    return 0


def run() -> None:
    """Entry point of the console script."""
    program.run(main)


if __name__ == "__main__":
    run()
