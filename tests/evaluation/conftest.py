"""The runs and splits that protocols evaluate."""

import pytest

from xdc_tf.evaluation import encoder_sources, labelled_records


@pytest.fixture(scope="session")
def source(tiny_run):
    """The trained encoders of tiny_run."""
    return encoder_sources.open_source(str(tiny_run))


@pytest.fixture(scope="session")
def split(source, tiny_records):
    """The videos of tiny_records, to learn from and to be tested on."""
    (opened,) = labelled_records.open_splits(
        [str(tiny_records / "train")],
        [str(tiny_records / "test")],
        run=source.run,
        modalities=("video", "audio"),
    )
    return opened
