"""Records and their indices, changed as a stranger could: with checksums that fit."""

import json

import numpy as np

from xdc_tf.data import record_index, shard_writing
from xdc_tf.data.record_framing import masked_crc32c, read_records


def framed(data: bytes, *, length: int | None = None) -> bytes:
    """A record as it lies in a file; its header may state another length."""
    header = (len(data) if length is None else length).to_bytes(8, "little")
    return b"".join(
        (
            header,
            masked_crc32c(header).to_bytes(4, "little"),
            data,
            masked_crc32c(data).to_bytes(4, "little"),
        )
    )


def read_vectors(index):
    """The numbers of each record of an index file."""
    return [np.frombuffer(record.data, "<i8") for record in read_records(str(index))]


def write_vectors(index, vectors):
    """Writes an index file of vectors, int64 or bytes."""
    records = (
        v if isinstance(v, bytes) else v.astype("<i8").tobytes() for v in vectors
    )
    index.write_bytes(b"".join(map(framed, records)))


def change_info(folder, **changed):
    """Changes values of dataset_info.json; None leaves a key out."""
    path = folder / "dataset_info.json"
    values = json.loads(path.read_text(encoding="utf-8")) | changed
    values = {key: value for key, value in values.items() if value is not None}
    path.write_text(json.dumps(values), encoding="utf-8")


def forget_sizes(folder):
    """Makes a directory one of an earlier program, which did not note down sizes."""
    values = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    shards = [
        {key: shard[key] for key in ("file", "num_examples")}
        for shard in values["shards"]
    ]
    change_info(folder, shards=shards)


def take_out(folder, indices):
    """Takes examples out of a directory as if their rows had been refused."""
    values = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    lines = (folder / "examples.csv").read_text("utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.split(",")[0] not in map(str, indices)]
    (folder / "examples.csv").write_text("".join(kept), encoding="utf-8")
    shards = []
    for shard in values["shards"]:
        path = folder / shard["file"]
        records = [record.data for record in read_records(str(path))]
        entries = read_vectors(folder / (shard["file"] + record_index.SUFFIX))
        left = [
            data
            for data, entry in zip(records, entries, strict=True)
            if entry[0] not in indices
        ]
        with shard_writing.ShardWriter(str(path)) as writer:
            for data in left:
                writer.write(data)
        shards.append({"file": shard["file"], "num_examples": len(left)})
    change_info(
        folder,
        shards=shards,
        num_examples=values["num_examples"] - len(indices),
        num_quarantined=values["num_quarantined"] + len(indices),
    )
