import os
import platform
import subprocess
import sys

import keras
import pytest

from xdc_tf.models import fast_layers
from xdc_tf.runtime import tuning

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="TensorFlow for x86 has oneDNN"
)


def printed(code: str, **environment: str) -> str:
    inherited = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout


COMMAND = """
from xdc_tf.runtime import program
def main(argv):
    from xdc_tf.runtime import tuning
    print(tuning.uses_onednn())
program.run(main)
"""


def test_a_command_has_tensorflow_use_it():
    assert printed(COMMAND) == "True\n"


def test_a_command_leaves_what_the_environment_says():
    assert printed(COMMAND, TF_ENABLE_ONEDNN_OPTS="0") == "False\n"


@pytest.mark.parametrize(
    ("used", "form"), [(True, fast_layers.SPATIAL), (False, fast_layers.PLANAR)]
)
def test_convolutions_of_clips_are_all_2d_where_it_is_not_used(monkeypatch, used, form):
    monkeypatch.setattr(tuning, "uses_onednn", lambda: used)
    layer = keras.layers.Conv3D(4, (1, 3, 3), padding="same", dtype="float32")
    assert fast_layers.choose_form(layer) == form
