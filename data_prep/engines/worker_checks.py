"""Whether a process elsewhere can be a worker: its software, and what it sees."""

import functools
import hashlib
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import simplejpeg
import tensorflow as tf

import data_prep
import xdc_tf
from data_prep.remote_files import is_remote
from xdc_tf.runtime import compat, files


class WorkerError(ValueError):
    """A worker that cannot do its part, for a reason that stays; names its host."""


class Origin(NamedTuple):
    """What the main process has, and what its workers must have too.

    Attributes:
      software: see `software`.
      digests: SHA-256 by the path of a file.
      seen: paths of files of whatever contents.
    """

    software: Mapping[str, str]
    digests: Mapping[str, str] = {}
    seen: Sequence[str] = ()


@functools.cache
def software() -> dict[str, str]:
    """What the bytes of records depend on: this project's code and libraries."""
    digest = hashlib.sha256()
    for package, pattern in (
        (data_prep, "**/*.py"),
        (xdc_tf, "data/*.py"),
        (xdc_tf, "runtime/*.py"),
    ):
        folder = Path(package.__path__[0])
        for path in sorted(folder.glob(pattern)):
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
    libraries = (
        f"{name} {'.'.join(map(str, version))}"
        for name, version in sorted(av.library_versions.items())
    )
    return {
        "code of data_prep and xdc_tf": digest.hexdigest()[:12],
        "av": av.__version__,
        "FFmpeg": ", ".join(libraries),
        "numpy": np.__version__,
        "simplejpeg": simplejpeg.__version__,
    }


def absolute(path: str) -> str:
    """A path that means the same to workers in other directories."""
    return path if is_remote(path) else os.path.abspath(path)


def check_worker(origin: Origin) -> None:
    """Checks that this process is a worker of the same installation and files.

    Raises:
      WorkerError: it is not.
    """
    host = socket.gethostname()
    differing = [
        f"{name} {software().get(name)} there, {version} here"
        for name, version in origin.software.items()
        if software().get(name) != version
    ]
    if differing:
        raise WorkerError(
            f"the worker on {host} has other software ({'; '.join(differing)}); "
            "install the same versions there, else records differ from worker to "
            "worker."
        )
    for path, digest in origin.digests.items():
        compat.enable_remote_paths(path)
        try:
            is_same = sha256(path) == digest
        except (OSError, tf.errors.OpError):
            is_same = False
        if not is_same:
            raise WorkerError(
                f"the worker on {host} does not see {path}, or sees another file of "
                "that name; give a directory that all workers share, under one path."
            )
    for path in origin.seen:
        if is_unseen(path):
            raise WorkerError(unseen_text(host, path))


def sha256(path: str) -> str:
    """SHA-256 of a text file, local or remote."""
    return hashlib.sha256(files.read_text(path).encode()).hexdigest()


def is_unseen(path: str) -> bool:
    """Whether a local file cannot be read by this process."""
    return not is_remote(path) and not os.access(path, os.R_OK)


def unseen_text(host: str, path: str) -> str:
    """What to say of a file that a worker should see."""
    return (
        f"the worker on {host} cannot read {path}; mount the media under the same path "
        "on all workers, readable to them."
    )
