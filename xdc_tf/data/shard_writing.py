"""Writing shards and their indices, whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping

import tensorflow as tf

from xdc_tf.data import record_framing, record_layout, records
from xdc_tf.data.record_framing import FOOTER_BYTES, HEADER_BYTES
from xdc_tf.data.record_index import SUFFIX
from xdc_tf.data.record_layout import Entry
from xdc_tf.runtime import files


class ShardWriter:
    """Writes a shard and its index; they get their names when both are on disk.

    Whoever else writes the same ones at the same time does not disturb.

    with ShardWriter(path) as writer:
        writer.write(records.encode_example(records.Example(...)))

    Args:
      path: of the shard, local or remote.
      keys: of the lists that the index is of, see records.Example.
    """

    def __init__(self, path: str, keys: Mapping[str, str] = records.KEYS):
        self._path = path
        self._keys = keys
        self._temporary = _temporary_name(path)
        self._entries: list[Entry] = []
        self._num_bytes = 0

    def __enter__(self):
        with _errors_naming(self._path):
            self._writer = tf.io.TFRecordWriter(self._temporary)
        return self

    def write(self, serialized: bytes) -> None:
        """Appends a record.

        Raises:
          ValueError: if this is not what records.encode_example makes.
          OSError: if it cannot be written; names the shard. Leaving the context too.
        """
        self._entries.append(
            record_layout.locate(serialized, self._num_bytes + HEADER_BYTES, self._keys)
        )
        with _errors_naming(self._path):
            self._writer.write(serialized)
        self._num_bytes += HEADER_BYTES + len(serialized) + FOOTER_BYTES

    def __exit__(self, error_type, *_):
        try:
            with _errors_naming(self._path):
                self._writer.close()
            if error_type is None:
                _write_index(self._path, self._entries, self._num_bytes)
                place(self._temporary, self._path)
        except OSError:
            if error_type is None:
                raise
        finally:
            if tf.io.gfile.exists(self._temporary):
                tf.io.gfile.remove(self._temporary)


def index_shard(path: str, keys: Mapping[str, str] = records.KEYS) -> None:
    """Makes a shard's index anew, reading all of the shard; see ShardWriter.

    Raises:
      ValueError: if a record is cut off, its checksum is wrong, or it is none of
        data.records; names the file and the record.
    """
    entries: list[Entry] = []
    num_bytes = 0
    for number, framed in enumerate(record_framing.read_records(path)):
        if framed.data is None:
            raise ValueError(f"{path}, record {number}: {framed.fault}; convert again.")
        try:
            entries.append(record_layout.locate(framed.data, framed.position, keys))
        except ValueError as error:
            raise ValueError(f"{path}, record {number}: {error}") from error
        num_bytes += framed.num_bytes
    _write_index(path, entries, num_bytes)


def _write_index(path: str, entries: list[Entry], num_bytes: int) -> None:
    temporary = _temporary_name(path + SUFFIX)
    try:
        with _errors_naming(path + SUFFIX), tf.io.TFRecordWriter(temporary) as writer:
            for entry in entries:
                entry = entry._replace(shard_bytes=num_bytes)
                writer.write(record_layout.serialize_entry(entry))
        place(temporary, path + SUFFIX)
    finally:
        if tf.io.gfile.exists(temporary):
            tf.io.gfile.remove(temporary)


def place(temporary: str, path: str) -> None:
    """Gives a file its name; a local one and its name are on disk on return.

    Raises:
      OSError: it cannot be done; names `path`.
    """
    if "://" in path:
        with _errors_naming(path):
            tf.io.gfile.rename(temporary, path, overwrite=True)
        return
    files.sync(temporary)
    os.replace(temporary, path)
    files.sync(os.path.dirname(path) or ".")


def _temporary_name(path: str) -> str:
    """A name beside a file for what is not complete yet, like no other."""
    return f"{path}.{secrets.token_hex(4)}.tmp"


@contextlib.contextmanager
def _errors_naming(path: str) -> Iterator[None]:
    """Has TensorFlow's errors in writing, such as those of a full disk, name a file."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"{path} cannot be written: {error.message}") from error
