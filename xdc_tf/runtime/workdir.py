"""The files of a run's work directory, by name; WORKSPACE.md lists what they hold."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from xdc_tf.runtime import files, json_files, locks

CONFIG_FILE = "config.json"
ENCODERS_FILE = "encoders.json"
IMPORT_FILE = "import.json"
RECORDS_DIR = "records"
CHECKPOINTS_DIR = "checkpoints"
LABELS_DIR = "labels"
FEATURES_DIR = "features"
TENSORBOARD_DIR = "tensorboard"
INITIAL_DIR = "initial"
BEST_DIR = "best"
LOCK_FILE = "lock"
_ROUND = re.compile(r"round_(\d+)")


def lock(workdir: str) -> locks.Lock:
    """Takes a work directory's lock, which keeps a second run out of it.

    It goes with the process that holds it, however that ends; the file stays.

    Raises:
      BlockingIOError: if another run has it; names that one's host and process.
      OSError: if the directory cannot be written.
    """
    return locks.Lock(os.path.join(workdir, LOCK_FILE), held=workdir)


def run_name(workdir: str, name: str) -> str:
    """The name of a run for people: config.name, or that of its work directory."""
    return name or os.path.basename(os.path.abspath(workdir))


def encoder_file(workdir: str, stream: str, *, initial: bool = False) -> str:
    """Path of a stream's encoder: as trained so far, or as the run started from."""
    folder = os.path.join(workdir, INITIAL_DIR) if initial else workdir
    return os.path.join(folder, f"{stream}_encoder.keras")


def heads_file(workdir: str, stream: str) -> str:
    """Path of the classification heads on a stream's encoder."""
    return os.path.join(workdir, f"{stream}_heads.npz")


def features_dir(workdir: str, *, worker: int, num_workers: int) -> str:
    """Path of a process's features; a single one has no directory of its own."""
    features = os.path.join(workdir, FEATURES_DIR)
    return (
        features if num_workers == 1 else os.path.join(features, f"worker_{worker:03d}")
    )


def round_dir(workdir: str, round_index: int) -> str:
    """Path of a round's label tables."""
    return os.path.join(workdir, LABELS_DIR, f"round_{round_index:03d}")


def round_dirs(workdir: str) -> list[tuple[int, str]]:
    """Number and path of every round that has label tables, in order."""
    labels = os.path.join(workdir, LABELS_DIR)
    names = os.listdir(labels) if os.path.isdir(labels) else []
    numbers = [int(match[1]) for name in names if (match := _ROUND.fullmatch(name))]
    return [(number, round_dir(workdir, number)) for number in sorted(numbers)]


def read_config(workdir: str) -> dict[str, Any]:
    """The configuration that a work directory was made with.

    Raises:
      FileNotFoundError: if the directory does not hold a run.
      ValueError: if its configuration cannot be read.
    """
    path = os.path.join(workdir, CONFIG_FILE)
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"{path} does not exist: {workdir} holds no run; make one with "
            "python -m xdc_tf.cli.pretrain."
        )
    try:
        return json_files.read_object(path)
    except ValueError as error:
        raise ValueError(f"{error} Restore it or use another --workdir.") from error


def check_local(workdir: str) -> None:
    """Raises ValueError for a remote path."""
    if "://" in workdir:
        raise ValueError(f"--workdir={workdir} must be a local directory.")


def claim(
    workdir: str,
    config: Mapping[str, Any],
    *,
    allow_change: bool,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Makes a work directory for a configuration, or checks that it is its own.

    Args:
      workdir: the directory; may exist.
      config: nested values that JSON can hold.
      allow_change: go on with the new configuration, which then takes the old one's
        place.
      defaults: values that a key has which the directory's configuration lacks: it is
        of a version that did not have the key.

    Raises:
      ValueError: if the directory belongs to another configuration; names all keys
        that differ and both values. Or if it has symbolic links in it.
    """
    # Through JSON, so that tuples compare equal to the lists that they are read as.
    config = json.loads(json.dumps(config))
    check_local(workdir)
    os.makedirs(workdir, exist_ok=True)
    files.check_no_links(workdir)
    path = os.path.join(workdir, CONFIG_FILE)
    if os.path.exists(path):
        now = dict(flatten(config))
        of_older = flatten(json.loads(json.dumps(dict(defaults))))
        before = {key: value for key, value in of_older if key in now}
        before |= flatten(read_config(workdir))
        differing = [
            f"{key} ({before.get(key, 'absent')} there, {now.get(key, 'absent')} now)"
            for key in sorted(before | now)
            if before.get(key) != now.get(key) or (key in before) != (key in now)
        ]
        if differing and not allow_change:
            raise ValueError(
                f"{workdir} holds a run of another configuration; these "
                f"keys differ: {', '.join(differing)}. Use another --workdir, or "
                "--allow_config_change to go on with the new one."
            )
    files.write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def flatten(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key and value of each value of nested mappings; keys are joined by points."""
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
