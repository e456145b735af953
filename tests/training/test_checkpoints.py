import os
import resource
import threading

import keras
import pytest
import tensorflow as tf

from xdc_tf.models.two_stream import TwoStream
from xdc_tf.runtime import compat
from xdc_tf.runtime import workdir as work
from xdc_tf.training import checkpoints
from xdc_tf.training.checkpoints import Checkpoints, Phase


class State:
    """A small model with all that a checkpoint holds, and its checkpoints."""

    def __init__(self, workdir, *, keep=2, strategy=None):
        strategy = strategy or tf.distribute.OneDeviceStrategy("/CPU:0")
        with strategy.scope():
            image = keras.Input((4,))
            encoder = keras.layers.BatchNormalization(name="norm")(
                keras.layers.Dense(3, name="dense")(image)
            )
            head = keras.layers.Dense(2)
            head.build((None, 3))
            self.model = TwoStream(
                {"audio": keras.Model(image, encoder)}, {"audio_from_video": head}
            )
            self.optimizer = compat.sgd(0.9)
            self.optimizer.build(self.model.trainable_variables)
            self.labels = tf.Variable([0, 1, -1], trainable=False)
        self.progress = checkpoints.new_progress()
        self.checkpoints = Checkpoints(
            str(workdir),
            model=self.model,
            optimizer=self.optimizer,
            label_tables={"video": self.labels},
            progress=self.progress,
            keep=keep,
        )

    def variables(self):
        return [
            *compat.tf_variables(self.model.encoders["audio"].variables),
            *compat.tf_variables(self.model.heads["audio_from_video"].variables),
            *compat.optimizer_variables(self.optimizer),
            self.labels,
            *self.progress,
        ]

    def fill(self, value):
        """Gives all variables the value and the run that step."""
        for variable in self.variables():
            variable.assign(tf.cast(tf.fill(variable.shape, value), variable.dtype))
        self.progress.phase.assign(Phase.TRAIN)
        return self

    def save(self, value, **arguments):
        self.fill(value).checkpoints.save(**arguments)

    def values(self):
        """The values of all variables but the phase, as a set."""
        return {
            float(one)
            for variable in self.variables()
            if variable is not self.progress.phase
            for one in variable.numpy().ravel()
        }


def files_of(workdir):
    return sorted(os.listdir(os.path.join(workdir, work.CHECKPOINTS_DIR)))


def newest(workdir, ending):
    path = tf.train.latest_checkpoint(os.path.join(workdir, work.CHECKPOINTS_DIR))
    return path + ending


DATA, INDEX, SUMS = ".data-00000-of-00001", ".index", ".sha256"


@pytest.mark.parametrize("devices", [1, 2])
def test_a_checkpoint_restores_every_variable(devices, tmp_path, two_devices):
    strategy = {1: None, 2: two_devices}[devices]
    State(tmp_path, strategy=strategy).save(7)
    state = State(tmp_path, strategy=strategy).fill(1)
    state.checkpoints.restore()
    assert state.values() == {7}
    assert int(state.progress.phase) == Phase.TRAIN


def test_a_checkpoint_is_restored_from_a_folder_that_looks_like_a_pattern(tmp_path):
    folder = tmp_path / "a[b]*?\\c {d}"
    State(folder).save(7)
    state = State(folder).fill(1)
    state.checkpoints.restore()
    assert state.values() == {7}


def test_a_new_run_has_nothing_to_restore(tmp_path):
    assert State(tmp_path).checkpoints.restore() is None


def test_the_last_two_checkpoints_stay(tmp_path):
    state = State(tmp_path)
    for step in (1, 2, 3):
        state.save(step)
    # Numbered 2 * (step + round) + phase, with round = step here.
    assert files_of(tmp_path) == [
        "checkpoint",
        "ckpt-13.data-00000-of-00001",
        "ckpt-13.index",
        "ckpt-13.sha256",
        "ckpt-9.data-00000-of-00001",
        "ckpt-9.index",
        "ckpt-9.sha256",
    ]


def test_a_state_is_taken_before_save_returns(tmp_path):
    state, may_write = State(tmp_path), threading.Event()
    state.save(5, first=may_write.wait, wait=False)
    state.fill(6)
    assert not os.path.exists(tmp_path / work.CHECKPOINTS_DIR)
    may_write.set()
    state.checkpoints.wait()
    state.checkpoints.restore()
    assert state.values() == {5}


@pytest.mark.parametrize("ending", [DATA, INDEX, SUMS])
@pytest.mark.parametrize("left", [0.0, 0.5])
def test_a_truncated_checkpoint_is_told_and_the_one_before_restored(
    ending, left, tmp_path, capsys
):
    state = State(tmp_path)
    state.save(1)
    state.save(2)
    path = newest(tmp_path, ending)
    os.truncate(path, int(left * os.path.getsize(path)))
    assert state.checkpoints.restore().endswith("ckpt-5")
    assert state.values() == {1}
    (line,) = capsys.readouterr().err.splitlines()
    assert "ckpt-9" in line and "going back to" in line


def test_a_flipped_bit_is_noticed(tmp_path):
    state = State(tmp_path)
    state.save(1)
    state.save(2)
    with open(newest(tmp_path, DATA), "r+b") as file:
        file.seek(-3, os.SEEK_END)
        byte = file.read(1)
        file.seek(-3, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    state.checkpoints.restore()
    assert state.values() == {1}


def test_after_going_back_the_damaged_checkpoint_is_replaced(tmp_path):
    state = State(tmp_path)
    state.save(1)
    state.save(2)
    os.truncate(newest(tmp_path, DATA), 10)
    state.checkpoints.restore()
    state.save(2)
    state.fill(0).checkpoints.restore()
    assert state.values() == {2}


def test_without_any_intact_checkpoint_the_run_does_not_start_anew(tmp_path):
    state = State(tmp_path)
    state.save(1)
    os.remove(newest(tmp_path, DATA))
    with pytest.raises(ValueError, match="ckpt-5 is damaged .*every checkpoint before"):
        state.checkpoints.restore()


def test_what_the_index_file_does_not_name_is_not_loaded_and_goes(tmp_path):
    state = State(tmp_path)
    state.save(1)
    folder = tmp_path / work.CHECKPOINTS_DIR
    # As a process leaves them that is killed while it writes.
    (folder / f"ckpt-99{DATA}").write_bytes(b"half")
    (folder / f"ckpt-99{INDEX}.tmp").write_bytes(b"half")
    state.fill(0).checkpoints.restore()
    assert state.values() == {1}
    state.save(2)
    assert not [name for name in files_of(tmp_path) if "ckpt-99" in name]


def test_another_model_is_told_from_a_damaged_checkpoint(tmp_path):
    State(tmp_path).save(1)
    other = State(tmp_path)
    other.labels = tf.Variable([0, 1, 2, 3])
    other.checkpoints = Checkpoints(
        str(tmp_path),
        model=other.model,
        optimizer=other.optimizer,
        label_tables={"video": other.labels},
        progress=other.progress,
    )
    with pytest.raises(ValueError, match="does not fit the model"):
        other.checkpoints.restore()


def test_a_full_disk_names_the_file_and_leaves_the_checkpoint_before(tmp_path):
    state = State(tmp_path)
    state.save(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(OSError, match=f"ckpt-9{DATA}.* intact; make room"):
            state.save(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    state.checkpoints.restore()
    assert state.values() == {1}
    assert not [name for name in files_of(tmp_path) if "ckpt-9" in name]


def test_an_error_in_the_background_is_raised_by_the_next_save(tmp_path):
    def fail():
        raise OSError("no room")

    state = State(tmp_path)
    state.save(1, first=fail, wait=False)
    with pytest.raises(OSError, match="ckpt-5 cannot be written: no room"):
        state.save(2)


def test_an_error_in_the_background_is_raised_at_the_end(tmp_path):
    def fail():
        raise OSError("no room")

    state = State(tmp_path)
    with pytest.raises(OSError, match="no room"):
        with state.checkpoints:
            state.save(1, first=fail, wait=False)


def test_an_error_of_the_run_is_not_hidden_by_one_in_the_background(tmp_path, capsys):
    def fail():
        raise OSError("no room")

    state = State(tmp_path)
    with pytest.raises(FloatingPointError):
        with state.checkpoints:
            state.save(1, first=fail, wait=False)
            raise FloatingPointError
    assert "no room" in capsys.readouterr().err
