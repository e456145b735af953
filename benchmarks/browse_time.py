"""Time, memory and disk that `xdc-tf browse` takes for a run of many videos.

    python -m benchmarks.browse_time --run=demo_run/run \\
        --records=demo_run/train_records --videos=demo_run/train/videos

Repeats the examples of a finished run under other names until there are --examples:
records, original files (hard links in --dir), features. Clusters are those of the run's
last round, each split into --splits, so that there are as many as a run of that size
would have. Then the command makes pages of this round.
"""

import os
import pathlib
import shutil
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks import browse_memory
from xdc_tf.data import dataset_info, record_directory, records
from xdc_tf.data.dataset_info import ShardInfo
from xdc_tf.data.example_tables import ExampleRow
from xdc_tf.data.record_framing import read_records
from xdc_tf.data.shard_writing import ShardWriter
from xdc_tf.features import feature_store
from xdc_tf.features.extraction import ExampleFeatures
from xdc_tf.features.feature_store import FeatureStore, RowState
from xdc_tf.labels import label_tables
from xdc_tf.runtime import workdir as run_directory

_RECORDS = flags.DEFINE_string("records", None, "Records of the run.", required=True)
_VIDEOS = flags.DEFINE_string(
    "videos", None, "Folder with the original files of the run.", required=True
)
_SPLITS = flags.DEFINE_integer("splits", 6, "Clusters that each cluster becomes.")


def main(argv: list[str]) -> None:
    del argv
    with tempfile.TemporaryDirectory(dir=browse_memory.DIR.value) as temporary:
        folder = pathlib.Path(temporary)
        ids = repeat_records(folder / "records", browse_memory.EXAMPLES.value)
        num_clusters = repeat_run(folder / "run", ids)
        command = [
            *(sys.executable, "-m", "xdc_tf.cli.browse"),
            *(f"--workdir={folder / 'run'}", f"--records={folder / 'records'}"),
            *(f"--videos={folder / 'videos'}", f"--out={folder / 'page'}"),
            f"--num_workers={browse_memory.WORKERS.value}",
        ]
        print("made; now the pages", flush=True)
        begin = time.perf_counter()
        own_mib, sum_mib = browse_memory.measured(command)
        secs = time.perf_counter() - begin
        clips = len(list((folder / "page" / "media").glob("*.mp4")))
        size = sum(path.stat().st_size for path in (folder / "page").rglob("*.*"))
        print(
            f"{len(ids)} videos, {num_clusters} clusters a modality: {clips} clips, "
            f"{secs:.0f} s, {own_mib:.0f} MiB, {sum_mib:.0f} MiB with the processes "
            f"that decode; pages of {size / 1e6:.0f} MB"
        )


def repeat_records(directory: pathlib.Path, number: int) -> list[str]:
    """Writes records of the repeated examples, and links their files; their ids."""
    source = record_directory.open_directory(_RECORDS.value)
    directory.mkdir()
    folder = os.path.abspath(_VIDEOS.value)
    originals = [
        framed.data
        for shard in source.info.shards
        for framed in read_records(os.path.join(_RECORDS.value, shard.file))
    ]
    rows: list[ExampleRow] = []
    shards, per_shard = [], 500
    num_shards = -(-number // per_shard)
    for shard in range(num_shards):
        name = f"records-{shard:05d}-of-{num_shards:05d}.tfrecord"
        path = directory / name
        numbers = range(shard * per_shard, min((shard + 1) * per_shard, number))
        with ShardWriter(str(path)) as writer:
            for place in numbers:
                copy, original = divmod(place, len(originals))
                example = tf.train.SequenceExample.FromString(originals[original])
                old_id = source.examples.video_ids[original]
                file = f"copy_{copy:03d}/{os.path.basename(old_id)}"
                link = directory.parent / "videos" / file
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(os.path.join(folder, os.path.basename(old_id)), link)
                feature = example.context.feature
                feature[records.EXAMPLE_INDEX].int64_list.value[:] = [place]
                for key in (records.MEDIA_ID, records.DATA_PATH):
                    feature[key].bytes_list.value[:] = [file.encode()]
                writer.write(example.SerializeToString(deterministic=True))
                label = int(source.examples.labels[original])
                text = source.info.label_names[label] if label >= 0 else ""
                times = source.examples.start_secs, source.examples.end_secs
                secs = [float(column[original]) for column in times]
                rows.append(ExampleRow(place, file, text, name, *secs))
        index = path.with_name(f"{name}.index")
        sizes = path.stat().st_size, index.stat().st_size
        shards.append(ShardInfo(name, len(numbers), *sizes))
    browse_memory.write_tables(directory, rows)
    info = source.info._replace(
        num_rows=number,
        num_examples=number,
        num_quarantined=0,
        rows_per_shard=per_shard,
        shards=shards,
    )
    dataset_info.write_dataset_info(str(directory), info)
    return [row.video_id for row in rows]


def repeat_run(directory: pathlib.Path, ids: list[str]) -> int:
    """Writes a run with the repeated labels and features; its number of clusters."""
    run = browse_memory.RUN.value
    directory.mkdir()
    shutil.copy(os.path.join(run, "config.json"), directory)
    shutil.copytree(os.path.join(run, "records"), directory / "records")
    stored = feature_store.read_features(
        run_directory.features_dir(run, worker=0, num_workers=1)
    )
    last, last_dir = run_directory.round_dirs(run)[-1]
    copies, originals = np.divmod(np.arange(len(ids)), len(stored.features.present))
    clusterings = {}
    for name, clustering in label_tables.read(last_dir).clusterings.items():
        num_clusters = len(clustering.centroids)
        labels = clustering.labels[originals] + num_clusters * (copies % _SPLITS.value)
        labels = labels.astype(np.int32)
        clusterings[name] = clustering._replace(
            labels=labels,
            centroids=np.tile(clustering.centroids, (_SPLITS.value, 1)),
            sizes=np.bincount(labels, minlength=num_clusters * _SPLITS.value),
        )
    label_tables.write(
        run_directory.round_dir(str(directory), last),
        clusterings=clusterings,
        video_ids=ids,
        settings=label_tables.read_settings(last_dir),
    )
    matrices = stored.features.streams
    store = FeatureStore(
        run_directory.features_dir(str(directory), worker=0, num_workers=1),
        num_rows=len(ids),
        widths={stream: matrix.shape[1] for stream, matrix in matrices.items()},
        dtype="float32",
        made_with={},
    )
    store.keep_only(harvested_in=None, extracted_by=stored.extracted_by)
    rows = {stream: matrix[originals] for stream, matrix in matrices.items()}
    store.write(ExampleFeatures(np.arange(len(ids)), rows), RowState.EXTRACTED)
    store.commit()
    return num_clusters * _SPLITS.value


if __name__ == "__main__":
    flags.mark_flag_as_required("run")
    flags.FLAGS.set_default("examples", 10_000)
    app.run(main)
