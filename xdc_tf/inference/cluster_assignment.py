"""Labels for new videos: the nearest of a finished run's clusters."""

import contextlib
import errno
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from xdc_tf.data import example_tables
from xdc_tf.features.extraction import make_extract
from xdc_tf.inference import cluster_names, feature_files, new_videos
from xdc_tf.inference.new_videos import Records, Row, VideoFiles
from xdc_tf.inference.parts import Conversion, Part, Sampling, mean_features, parts
from xdc_tf.labels.label_makers import nearest
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.labels.pseudo_labels import side_by_side
from xdc_tf.runtime import files
from xdc_tf.training import supervision, trained_run

_LABEL_COLUMNS = ("cluster", "distance", "margin")
_NAME_COLUMN = "name"
# The CSV before it gets its name; in a directory of features, a sign that it has none.
_PENDING_FILE = ".assigned.csv"


class Assigned(NamedTuple):
    """What `assign_clusters` wrote.

    Attributes:
      rows: all rows, in the order of the CSV.
      sources: the label sources whose clusters label them.
      round_index: the round that the clusters are of.
      num_labelled: rows of the manifest; None without one.
    """

    rows: list[Row]
    sources: tuple[str, ...]
    round_index: int
    num_labelled: int | None = None


class Naming(NamedTuple):
    """Names of clusters, and the manifest that they label.

    Attributes:
      path: CSV of cluster_names.read_names.
      manifest_path: the manifest to make, of the rows whose cluster has a name; None
        for none.
      label_source: the clustering whose names are its labels; None for the only one
        with names.
    """

    path: str
    manifest_path: str | None = None
    label_source: str | None = None


class _ReadNames(NamedTuple):
    """A Naming, read and checked: names by source and cluster."""

    of_clusters: dict[str, list[str]]
    manifest_path: str | None
    label_source: str


class _LabelledRow(NamedTuple):
    """A line of the CSV.

    Attributes:
      row: of the videos.
      labels: by label source the values of _LABEL_COLUMNS; empty texts if the row is
        quarantined.
    """

    row: Row
    labels: dict[str, tuple]


def assign_clusters(
    run_dir: str,
    videos_path: str,
    out_path: str,
    *,
    conversion: Conversion,
    num_clips: int | None = None,
    batch_size: int | None = None,
    features_dir: str | None = None,
    naming: Naming | None = None,
) -> Assigned:
    """Writes a CSV with one line per row: its clusters, or why it could not be used.

    Args:
      run_dir: work directory of a finished run of a method that clusters.
      videos_path: see new_videos.open_videos.
      out_path: the CSV, of the columns that _write_table says.
      conversion: of video files.
      num_clips: whose features are averaged, evenly spread; None for as many as the
        run's clusters were made of.
      batch_size: clips per batch; None for that of the run.
      features_dir: a directory to make, with STREAM.npy of [rows, D] float32 in the
        order of the CSV, NaN for a quarantined row.
      naming: names of the clusters; None for none.

    Raises:
      FileExistsError: if out_path, features_dir or the manifest exists.
      FileNotFoundError: without videos, a run, names, or clusters of its present
        encoders.
      ValueError: see new_videos.open_videos, parts.parts and cluster_names.read_names.
      FloatingPointError: on features that are not finite.
    """
    _check_places(out_path, features_dir, naming and naming.manifest_path)
    run = trained_run.open_run(run_dir)
    clusters = trained_run.final_clusters(run)
    names = _read_names(naming, clusters)
    videos = new_videos.open_videos(videos_path, run)
    encoders = trained_run.load_encoders(run)
    if num_clips is None:
        num_clips = run.config.features.clips_per_video
    with (
        files.scratch_directory(out_path) as scratch_dir,
        _features_scratch(features_dir) as features_scratch,
    ):
        with _write_arrays(features_scratch, encoders) as append:
            video_parts = parts(
                videos,
                run,
                sampling=Sampling(num_clips, batch_size=batch_size),
                conversion=conversion,
                scratch_dir=scratch_dir,
            )
            lines = list(
                _label_parts(video_parts, run, encoders, clusters.clusterings, append)
            )
        pending_path = os.path.join(features_scratch or scratch_dir, _PENDING_FILE)
        _write_table(pending_path, lines, list(clusters.clusterings), names)
        num_labelled = _write_manifest(names, lines, _folder(videos, videos_path))
        if features_dir and features_scratch:
            files.place_directory(features_scratch, features_dir)
            pending_path = os.path.join(features_dir, _PENDING_FILE)
        files.check_free(out_path)
        _move(pending_path, out_path)
        _finish_manifest(names)
    return Assigned(
        [line.row for line in lines],
        tuple(clusters.clusterings),
        clusters.round_index,
        num_labelled,
    )


def _check_places(*paths: str | None) -> None:
    places = [os.path.abspath(path) for path in paths if path]
    if len(set(places)) != len(places):
        raise ValueError(
            "The CSV, the directory of features and the manifest need different "
            f"places, not {', '.join(places)}."
        )


def _read_names(
    naming: Naming | None, clusters: trained_run.FinalClusters
) -> _ReadNames | None:
    """Reads and checks the names before anything is computed."""
    if naming is None:
        return None
    names = cluster_names.read_names(
        naming.path,
        round_index=clusters.round_index,
        num_clusters={
            source: len(clustering.centroids)
            for source, clustering in clusters.clusterings.items()
        },
    )
    if naming.manifest_path is None:
        return _ReadNames(names, None, "")
    if not os.path.lexists(_unfinished_sign(naming.manifest_path)):
        files.check_free(naming.manifest_path)
    source = cluster_names.choose_source(names, naming.label_source)
    return _ReadNames(names, naming.manifest_path, source)


def _write_manifest(
    names: _ReadNames | None, lines: Sequence[_LabelledRow], folder: str
) -> int | None:
    """Writes the manifest, if there is to be one; returns how many rows it has."""
    if names is None or names.manifest_path is None:
        return None
    source = names.label_source
    files.write_text(_unfinished_sign(names.manifest_path), "")
    return cluster_names.write_manifest(
        names.manifest_path,
        [line.row for line in lines],
        [_name(names, source, line) for line in lines],
        folder=folder,
    )


def _unfinished_sign(manifest_path: str) -> str:
    """A file beside a manifest whose CSV has not got its name yet."""
    folder, name = os.path.split(manifest_path)
    return os.path.join(folder, f".{name}.unfinished")


def _finish_manifest(names: _ReadNames | None) -> None:
    if names is not None and names.manifest_path is not None:
        os.remove(_unfinished_sign(names.manifest_path))


def _name(names: _ReadNames, source: str, line: _LabelledRow) -> str:
    """The name of a row's cluster; "" for none."""
    cluster = line.labels[source][0]
    return "" if cluster == "" else names.of_clusters[source][cluster]


def _folder(videos: VideoFiles | Records, path: str) -> str:
    """What the paths of rows are relative to; records do not say it."""
    if isinstance(videos, Records):
        return ""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    return folder if "://" in folder else os.path.abspath(folder)


def _label_parts(
    video_parts: Iterable[Part],
    run: trained_run.TrainedRun,
    encoders: dict[str, keras.Model],
    clusterings: Mapping[str, Clustering],
    append: Callable[[Mapping[str, np.ndarray]], Any],
) -> Iterator[_LabelledRow]:
    """Labels all rows, and appends the features of each part to the arrays."""
    method = supervision.method(run.config.method)
    streams_of = {
        source: supervision.clustered_streams(method, source) for source in clusterings
    }
    extract = make_extract(encoders, run.streams, strategy=tf.distribute.get_strategy())
    for part in video_parts:
        features = mean_features(extract, part)
        append(features)
        usable = np.array([not row.reason for row in part.rows])
        labels = {
            source: _labels(
                [features[stream] for stream in streams_of[source]],
                clustering,
                usable=usable,
            )
            for source, clustering in clusterings.items()
        }
        for number, row in enumerate(part.rows):
            yield _LabelledRow(
                row, {source: values[number] for source, values in labels.items()}
            )


def _labels(
    streams: list[np.ndarray], clustering: Clustering, *, usable: np.ndarray
) -> list[tuple]:
    """Cluster, distance and margin of each row; empty texts where not usable.

    Args:
      streams: [rows, D] float32 each, which the clustering has side by side.
      clustering: whose nearest centroids label the rows.
      usable: [rows] bool.
    """
    labels: list[tuple] = [("", "", "")] * len(usable)
    if usable.any():
        features = side_by_side([rows[usable] for rows in streams])
        columns = nearest(tf.constant(features), clustering)
        for number, cluster, distance, margin in zip(
            np.flatnonzero(usable), *(column.numpy() for column in columns), strict=True
        ):
            labels[number] = (int(cluster), f"{distance:.7g}", f"{margin:.7g}")
    return labels


def _write_table(
    path: str,
    lines: Sequence[_LabelledRow],
    sources: Sequence[str],
    names: _ReadNames | None,
) -> None:
    """Writes the CSV.

    Its columns are path, start_secs, end_secs, video_id; for each label source
    SOURCE_cluster, SOURCE_distance, SOURCE_margin (label_makers.nearest), and with
    names SOURCE_name, "" where the cluster has none or is junk; reason and detail,
    which are empty unless the row is quarantined.
    """

    def cells(source: str, line: _LabelledRow) -> tuple:
        labels = line.labels[source]
        return labels if names is None else (*labels, _name(names, source, line))

    columns = _LABEL_COLUMNS if names is None else (*_LABEL_COLUMNS, _NAME_COLUMN)
    example_tables.write_csv(
        path,
        [
            *("path", "start_secs", "end_secs", "video_id"),
            *(f"{source}_{column}" for source in sources for column in columns),
            *("reason", "detail"),
        ],
        (
            (
                *(line.row.path, line.row.start_secs, line.row.end_secs),
                line.row.video_id,
                *itertools.chain(*(cells(source, line) for source in sources)),
                *(line.row.reason, line.row.detail),
            )
            for line in lines
        ),
    )


def _features_scratch(
    directory: str | None,
) -> contextlib.AbstractContextManager[str | None]:
    """A scratch directory for the features; None for None.

    What an earlier attempt has left is removed: features whose CSV is still in them,
    since it was killed before that got its name.
    """
    if directory is None:
        return contextlib.nullcontext()
    pending = os.path.join(directory, _PENDING_FILE)
    return files.scratch_directory(
        directory, is_remainder=lambda: os.path.lexists(pending)
    )


def _move(path: str, new_path: str) -> None:
    """Renames a file, or copies it whole to another file system."""
    try:
        os.rename(path, new_path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with files.placing(new_path) as temporary:
            shutil.copyfile(path, temporary)
        os.remove(path)
    for name in (path, new_path):
        files.sync(os.path.dirname(name) or ".")


def _write_arrays(
    directory: str | None, encoders: Mapping[str, keras.Model]
) -> contextlib.AbstractContextManager[Callable[[Mapping[str, np.ndarray]], Any]]:
    """feature_files.write_arrays into a directory; nowhere for None."""
    if directory is None:
        return contextlib.nullcontext(lambda streams: None)
    widths = {stream: encoder.output_shape[-1] for stream, encoder in encoders.items()}
    return feature_files.write_arrays(directory, widths)
