"""Which records hold the same recording, whatever its name."""

import hashlib
from collections.abc import Sequence

import numpy as np

from xdc_tf.data import record_index
from xdc_tf.data.example_tables import Promised


def of_examples(
    shards: Sequence[str],
    example_indices: np.ndarray,
    promised: Promised | None = None,
) -> dict[int, bytes]:
    """A hash of each example's content, by example_index.

    The sizes of all its JPEG images, which the index of a shard has, tell a video as
    surely as a hash of its bytes, but where they are all the same, as of a black
    picture. That, and sound alone, is told by the log-mel, which is read.

    Args:
      shards: paths of the files of records.
      example_indices: [N] int, those wanted.
      promised: what the directory says of the shards, if that is known.

    Raises:
      ValueError: on files that cannot be read.
    """
    wanted = set(example_indices.tolist())
    hashes = {}
    for path in shards:
        for _, entry in record_index.read_index(path, promised=promised):
            if entry.example_index not in wanted:
                continue
            digest = hashlib.sha256(entry.frame_bytes.tobytes())
            if len(np.unique(entry.frame_bytes)) < 2 and entry.num_log_mel_rows > 0:
                num_bytes = entry.log_mel_row_bytes * entry.num_log_mel_rows
                (log_mel,) = record_index.read_file(
                    path,
                    np.array([entry.log_mel_position]),
                    np.array([num_bytes]),
                    entry.shard_bytes,
                )
                digest.update(log_mel)
            hashes[entry.example_index] = digest.digest()
    return hashes
