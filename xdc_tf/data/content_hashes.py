"""Which records hold the same recording, whatever its name."""

import hashlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from xdc_tf.data import record_index
from xdc_tf.data.untuned import untuned


def of_examples(shards: Sequence[str], example_indices: np.ndarray) -> dict[int, bytes]:
    """A hash of each example's content, by example_index.

    The sizes of all its JPEG images, which the index of a shard has, tell a video as
    surely as a hash of its bytes, but where they are all the same, as of a black
    picture. That, and sound alone, is told by the log-mel, which is read.

    Args:
      shards: paths of the files of records.
      example_indices: [N] int, those wanted.

    Raises:
      OSError, tf.errors.OpError: on files that cannot be read.
    """
    wanted = set(example_indices.tolist())
    # Eagerly, the NumPy function in it would get an array and not a string.
    read = tf.function(record_index.read_pieces, autograph=False)
    hashes = {}
    for path in shards:
        for serialized in untuned(tf.data.TFRecordDataset(path + record_index.SUFFIX)):
            entry = record_index.parse_entry(serialized)
            index = int(entry.example_index)
            if index not in wanted:
                continue
            sizes = entry.frame_bytes.numpy()
            digest = hashlib.sha256(sizes.tobytes())
            if len(np.unique(sizes)) < 2 and entry.num_log_mel_rows > 0:
                num_bytes = entry.log_mel_row_bytes * entry.num_log_mel_rows
                pieces = read(
                    tf.constant(path),
                    entry.log_mel_position[None],
                    num_bytes[None],
                    entry.shard_bytes,
                )
                digest.update(pieces[0].numpy())
            hashes[index] = digest.digest()
    return hashes
