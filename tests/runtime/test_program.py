"""Exit codes and messages of command lines, each run as a process of its own.

From nothing, but for what is of TensorFlow's errors alone.
"""

import os
import subprocess
import sys
import textwrap

import pytest
from forked_commands import ROOT, run_command

# A command line whose main is the statements given.
SCRIPT = '''\
"""Does one thing."""

import sys

from absl import flags, logging

from xdc_tf.runtime import program

_NUMBER = flags.DEFINE_integer("number", 1, "A number.")


def main(argv):
{body}


if __name__ == "__main__":
    program.run(main)
'''


@pytest.fixture
def write(tmp_path):
    def write(body):
        script = tmp_path / "command.py"
        script.write_text(SCRIPT.format(body=textwrap.indent(body, "    ")))
        return script

    return write


@pytest.fixture
def run_forked(write):
    return lambda body: run_command(str(write(body)))


@pytest.fixture
def run(write, tmp_path):
    def run(body, *arguments, code=None):
        script = write(body)
        command = ["-c", code] if code else [str(script)]
        return subprocess.run(
            [sys.executable, *command, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, str(tmp_path)])},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.once
def test_success_leaves_with_0_and_says_nothing_of_its_own(run):
    done = run("print(_NUMBER.value)", "--number=3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


@pytest.mark.once
@pytest.mark.parametrize(
    "name,usual,other",
    [
        ("TF_FORCE_GPU_ALLOW_GROWTH", "true", "false"),
        ("TF_USE_CUDNN_BATCHNORM_SPATIAL_PERSISTENT", "1", "0"),
    ],
)
def test_a_command_sets_gpus_up_unless_the_environment_does(
    run, monkeypatch, name, usual, other
):
    printed = f"import os; print(os.environ['{name}'])"
    monkeypatch.delenv(name, raising=False)
    assert run(printed).stdout == f"{usual}\n"
    monkeypatch.setenv(name, other)
    assert run(printed).stdout == f"{other}\n"


@pytest.mark.once
def test_the_code_that_main_returns_is_the_exit_code(run):
    assert run("return 7").returncode == 7


@pytest.mark.once
def test_arguments_that_are_not_flags_are_refused(run):
    done = run("print(_NUMBER.value)", "number=3")
    assert (done.returncode, done.stdout) == (1, "")
    assert "unexpected arguments ['number=3']" in done.stderr


@pytest.mark.once
def test_a_command_that_takes_arguments_gets_them_wherever_the_flags_are(run):
    code = """\
from absl import flags
from xdc_tf.runtime import program
number = flags.DEFINE_integer("number", 1, "A number.")
def main(argv):
    print(argv[1:], number.value)
program.run(main, takes_arguments=True)
"""
    done = run("pass", "a.json", "--number=3", "b c.json", "--", "--d", code=code)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "['a.json', 'b c.json', '--d'] 3\n"
    assert run("pass", "--number=3", code=code).stdout == "[] 3\n"


@pytest.mark.once
@pytest.mark.parametrize(
    "statement, message",
    [
        ('raise ValueError("k=9 exceeds\\n 8.")', "error: k=9 exceeds 8.\n"),
        ('raise FileNotFoundError("no a.csv")', "error: no a.csv\n"),
        ('raise PermissionError("a.csv is locked")', "error: a.csv is locked\n"),
        (
            'open("/nowhere/a")',
            "error: [Errno 2] No such file or directory: '/nowhere/a'\n",
        ),
        (r'raise ValueError("a\x1b[2Jé\udcff.mp4")', "error: a\\x1b[2Jé\\udcff.mp4\n"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_1(run, statement, message):
    done = run(statement)
    assert (done.returncode, done.stderr) == (1, message)


def test_a_full_disk_that_tensorflow_writes_to_is_one_line(run_forked):
    statements = """\
import tensorflow as tf
try:
    with tf.io.TFRecordWriter("/dev/full") as writer:
        writer.write(bytes(1 << 20))
except tf.errors.OpError as error:
    message = "{{node a}} " + error.message + "\\n\\tCould not write. [Op:Write]"
    raise type(error)(error.node_def, error.op, message)
"""
    done = run_forked(statements)
    assert done.returncode == 1
    assert done.stderr == "error: /dev/full; No space left on device\n"


@pytest.mark.once
def test_a_message_of_any_length_is_shown_in_part(run):
    done = run("raise ValueError('first ' + 'x' * 10**6 + ' last')")
    assert done.stderr.startswith("error: first xxx")
    assert done.stderr.endswith("xxx last\n") and len(done.stderr) < 2100


@pytest.mark.once
def test_what_is_printed_moves_no_cursor(run):
    done = run("print('a\\x1b[2Jb\\r\\u202ec\\td'); print('e\\x9b', file=sys.stderr)")
    assert done.stdout == "a\\x1b[2Jb\\r\\u202ec\td\n"
    assert done.stderr == "e\\x9b\n"


@pytest.mark.once
def test_debug_shows_the_traceback_of_a_mistake(run):
    done = run('raise ValueError("k=9")', "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ValueError: k=9" in done.stderr


@pytest.mark.once
def test_a_bug_shows_its_traceback(run):
    done = run('raise RuntimeError("impossible")')
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "RuntimeError: impossible" in done.stderr


@pytest.mark.once
def test_an_interrupt_leaves_with_130(run):
    done = run("raise KeyboardInterrupt")
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


@pytest.mark.once
@pytest.mark.parametrize("flag", ["--nunber=3", "--number=three"])
def test_a_wrong_flag_is_one_line_and_exit_code_1(run, flag):
    done = run("pass", flag)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.once
def test_an_unknown_configuration_key_is_one_line_with_the_nearest_key(run, tmp_path):
    (tmp_path / "config.py").write_text(
        "import ml_collections\n"
        "def get_config():\n"
        "    return ml_collections.ConfigDict({'method': 'xdc'})\n"
    )
    code = """\
from ml_collections import config_flags
from xdc_tf.runtime import program
config_flags.DEFINE_config_file("config")
def main(argv):
    print("reached")
program.run(main)
"""
    done = run("pass", "--config=config.py", "--config.metod=sdc", code=code)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: in the configuration: no such key: 'metod'")
    assert 'Did you mean "method"' in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.once
def test_help_describes_the_flags_and_leaves_with_0_without_tensorflow(run):
    done = run("pass", "--help")
    assert done.returncode == 0
    for text in ("Does one thing.", "--number: A number.", "--[no]debug"):
        assert text in done.stdout
    code = (
        "import sys; from xdc_tf.runtime import program\n"
        "print('tensorflow' in sys.modules)"
    )
    assert run("pass", code=code).stdout == "False\n"


@pytest.mark.once
def test_help_through_a_console_script_describes_the_commands_flags(run):
    code = "from command import main, program; program.run(main)"
    done = run("pass", "--help", code=code)
    assert "Does one thing." in done.stdout
    assert "--number: A number." in done.stdout


def test_the_programs_messages_are_shown_and_tensorflows_are_not(run):
    body = """\
import tensorflow as tf
tf.distribute.MirroredStrategy().run(lambda: tf.zeros([1]))
logging.info("round 1")
"""
    done = run(body)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.endswith("round 1")


@pytest.mark.once
def test_what_else_is_written_while_tensorflow_is_imported_is_passed_on(run):
    body = """\
import os
with program._without_start_up_noise():
    os.write(2, b"I0000 00:00:1.1 1 port.cc:1] note\\nF0000 00:00:1.1 1 no AVX\\n")
"""
    assert run(body).stderr == "F0000 00:00:1.1 1 no AVX\n"


def test_a_mistake_found_inside_a_data_set_is_one_line(run_forked):
    body = """\
from xdc_tf.data import audio_files
list(audio_files.waveforms([__file__], sample_rate_hz=16000))
"""
    done = run_forked(body)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "/command.py: not a wav" in done.stderr


def test_a_data_set_that_goes_on_without_end_does_not_keep_the_process(run):
    body = """\
import atexit
import tensorflow as tf

class Kept:
    def __del__(self):
        print("the interpreter was taken down", flush=True)

atexit.register(print, "cleaned up")
endless = tf.data.Dataset.range(1).repeat().map(
    lambda number: tf.numpy_function(abs, [number], tf.int64), num_parallel_calls=4
)
program.kept = Kept(), iter(endless.prefetch(4))
next(program.kept[1])
raise ValueError("a mistake")
"""
    done = run(body)
    assert done.returncode == 1
    assert done.stderr == "error: a mistake\n"
    # No destructor has run, which could wait for the data set's threads.
    assert done.stdout == "cleaned up\n"


def test_a_frame_that_cannot_be_decoded_is_one_line(run_forked):
    body = """\
import tensorflow as tf
list(tf.data.Dataset.from_tensors(b"no image").map(tf.io.extract_jpeg_shape))
"""
    done = run_forked(body)
    assert done.returncode == 1
    # libjpeg has a line of its own before.
    assert done.stderr.splitlines()[-1] == (
        "error: a frame of the records cannot be decoded (Invalid JPEG data, size 8); "
        "python -m data_prep.inspect --verify names it."
    )
    assert done.stderr.count("\n") <= 2


def test_a_file_that_tensorflow_cannot_find_is_one_line(run_forked):
    body = "import tensorflow as tf\nlist(tf.data.TFRecordDataset('no.tfrecord'))"
    done = run_forked(body)
    assert done.returncode == 1
    assert done.stderr == "error: no.tfrecord; No such file or directory\n"
