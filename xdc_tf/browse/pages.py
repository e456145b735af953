"""A run as a folder of pages: its clusters seen and heard, without a server.

The same command goes on where it was killed: clips that are whole are kept, and so are
maps of the same features. Tables are written anew, the overview last.
"""

import itertools
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_prep.engines.local_pool import LOCAL_POOL, Engine
from xdc_tf.browse import (
    cluster_tables,
    feature_maps,
    map_tables,
    media_files,
    members,
    opened_run,
    overview,
    page_files,
    run_warnings,
)
from xdc_tf.browse.members import Member
from xdc_tf.browse.opened_run import OpenedRun
from xdc_tf.browse.page_files import State
from xdc_tf.labels import shown_members
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.runtime import arrays

# Beside the media: the plotting library, tables and map of a run of some size.
_OTHER_BYTES = 8 << 20

Members = dict[str, list[list[Member]]]


class BrowseSettings(NamedTuple):
    """What is shown of a run.

    Attributes:
      videos: folder of the originals, see media_files.find_original; None for none.
      rounds: see opened_run.choose_rounds.
      examples_per_cluster: members of each cluster that are shown, at most.
      map_examples: examples on a map, at most.
      num_workers: processes that decode and encode.
      engine: where originals are decoded.
    """

    videos: str | None = None
    rounds: str = opened_run.ALL
    examples_per_cluster: int = 24
    map_examples: int = feature_maps.MOST_SAMPLED
    num_workers: int = 1
    engine: Engine = LOCAL_POOL


_DEFAULTS = BrowseSettings()


class _Round(NamedTuple):
    """A round that is shown: its table, without the cross table, and its members."""

    table: dict[str, Any]
    members: Members


def make_pages(
    workdir: str,
    records_dir: str,
    out_dir: str,
    *,
    settings: BrowseSettings = _DEFAULTS,
    command: str = "",
) -> str:
    """Writes the pages of a run; an earlier attempt in the folder is gone on with.

    Args:
      workdir: of the run.
      records_dir: that it was trained on.
      out_dir: the folder to make.
      settings: what is shown.
      command: that makes the pages, for the overview.

    Returns:
      Path of the page to open.

    Raises:
      BlockingIOError: another process writes the folder.
      FileExistsError: the folder holds something else.
      FileNotFoundError: there is no run, no records, no labels or no originals.
      OSError: the folder cannot be written, or the disk has not enough room.
      ValueError: what is asked for does not fit the run, or something is damaged.
    """
    _check(settings)
    run = opened_run.open_run(workdir, records_dir)
    shown_rounds = opened_run.choose_rounds(run, settings.rounds)
    made_of = {
        "workdir": os.path.abspath(workdir),
        "manifest_sha256": run.records.info.manifest_sha256,
    }
    with page_files.claimed(out_dir, made_of) as state:
        page_files.copy_page(out_dir)
        _fill(run, out_dir, state, shown_rounds, settings, command)
    return os.path.join(out_dir, "index.html")


def _fill(
    run: OpenedRun,
    out_dir: str,
    state: State,
    shown_rounds: Sequence[int],
    settings: BrowseSettings,
    command: str,
) -> None:
    """Makes clips, maps and tables, the overview last."""
    figures, warnings = overview.round_figures(run)
    rounds = _make_rounds(run, shown_rounds, settings)
    shown = _add_cross_tables(run, rounds, settings)
    _tell_size(run, out_dir, shown, state, settings)
    media_files.make_media(
        run,
        out_dir,
        state,
        shown,
        videos=settings.videos,
        num_workers=settings.num_workers,
        engine=settings.engine,
    )
    maps = map_tables.write_maps(
        run, out_dir, state, shown, most_sampled=settings.map_examples
    )
    warnings += run_warnings.member_warnings(
        run,
        shown_rounds[-1],
        opened_run.read_round(run, shown_rounds[-1]),
        members=rounds[shown_rounds[-1]].members,
        media=state.media,
    )
    _write_tables(run, out_dir, state, rounds)
    page_files.write_table(
        out_dir,
        "overview",
        overview.make_overview(
            run,
            command=command,
            rounds=figures,
            shown_rounds=shown_rounds,
            warnings=warnings,
            maps=maps,
        ),
    )
    page_files.remove_other_tables(out_dir, _table_names(run, rounds, maps))


def _check(settings: BrowseSettings) -> None:
    if settings.videos is not None and not os.path.isdir(settings.videos):
        raise FileNotFoundError(
            f"--videos={settings.videos} is no folder; give that of the originals, or "
            "leave it out, and the clips are made of the records."
        )
    if settings.examples_per_cluster < 1:
        raise ValueError(
            f"--examples_per_cluster={settings.examples_per_cluster} must be 1 or more."
        )


def _make_rounds(
    run: OpenedRun, shown_rounds: Sequence[int], settings: BrowseSettings
) -> dict[int, _Round]:
    """Members and figures of the rounds that are shown."""
    priorities = shown_members.draw_priorities(run.num_rows, seed=run.config.seed)
    rounds = {}
    for round_index in shown_rounds:
        clusterings = opened_run.read_round(run, round_index)
        number_before = max((n for n in run.rounds if n < round_index), default=None)
        previous: Mapping[str, Clustering] = {}
        if number_before is not None:
            previous = opened_run.read_round(run, number_before)
        table: dict[str, Any] = {"round": round_index, "clusterings": {}, "flows": {}}
        chosen: Members = {}
        for name, clustering in clusterings.items():
            rows = cluster_tables.cluster_rows(
                name, clusterings, previous=previous, true_labels=run.true_labels
            )
            chosen[name] = _choose_members(
                run, round_index, name, clustering, rows, priorities, settings
            )
            table["clusterings"][name] = {"clusters": rows}
            if name in previous:
                table["flows"][name] = {
                    "from": number_before,
                    "counts": cluster_tables.pair_counts(
                        previous[name].labels, clustering.labels
                    ),
                }
        rounds[round_index] = _Round(table, chosen)
    return rounds


def _choose_members(
    run: OpenedRun,
    round_index: int,
    name: str,
    clustering: Clustering,
    rows: list[dict[str, Any]],
    priorities: np.ndarray,
    settings: BrowseSettings,
) -> list[list[Member]]:
    """The members of each cluster; fills `rows` with them and with dispersions."""
    streams = opened_run.features_of_round(run, round_index, name)
    distances = None
    if streams is not None and run.features is not None:
        present = run.features.present
        distances = members.measure_distances(streams, present, clustering)
        means = members.mean_distances(
            clustering.labels, distances.distance, len(clustering.centroids)
        )
        for row, mean in zip(rows, means, strict=True):
            row["dispersion"] = page_files.number(mean)
    chosen = members.select_members(
        clustering.labels,
        num_clusters=len(clustering.centroids),
        distances=distances,
        priorities=priorities,
        per_cluster=settings.examples_per_cluster,
    )
    for row, of_cluster in zip(rows, chosen, strict=True):
        row["members"] = [
            {
                **member._asdict(),
                "distance": _at(distances, "distance", member.example),
                "margin": _at(distances, "margin", member.example),
            }
            for member in of_cluster
        ]
    return chosen


def _at(distances: members.Distances | None, name: str, example: int) -> float | None:
    if distances is None:
        return None
    return page_files.number(float(getattr(distances, name)[example]))


def _add_cross_tables(
    run: OpenedRun, rounds: Mapping[int, _Round], settings: BrowseSettings
) -> list[int]:
    """Adds the cross tables of two sources; returns all examples that are shown."""
    shown = {
        member.example
        for shown_round in rounds.values()
        for clusters in shown_round.members.values()
        for member in itertools.chain.from_iterable(clusters)
    }
    if len(run.first_heads) < 2:
        return sorted(shown)
    first, second = run.first_heads[:2]
    for round_index, shown_round in rounds.items():
        clusterings = opened_run.read_round(run, round_index)
        if first not in clusterings or second not in clusterings:
            continue
        cross = cluster_tables.cross_table(
            first,
            second,
            clusterings,
            shown=sorted(shown),
            num_more=len(clusterings[first].centroids),
        )
        shown_round.table["cross"] = cross
        shown.update(itertools.chain.from_iterable(cross["examples"].values()))
    return sorted(shown)


def _tell_size(
    run: OpenedRun,
    out_dir: str,
    shown: Sequence[int],
    state: State,
    settings: BrowseSettings,
) -> None:
    """Says how large the folder becomes, before it does.

    Raises:
      OSError: the disk has not as much room.
    """
    has_originals = any(
        media_files.find_original(run.video_id(example), settings.videos)[0]
        for example in shown[:: max(1, len(shown) // 20)]
    )
    num_bytes = _OTHER_BYTES + media_files.expected_bytes(
        run, len(shown), from_files=has_originals
    )
    free = shutil.disk_usage(out_dir).free
    num_there = sum(str(example) in state.media for example in shown)
    print(
        f"{len(shown)} examples are shown, {num_there} of them are there already; "
        f"{out_dir} will take about {num_bytes / 1e6:.0f} MB, and {free / 1e6:.0f} MB "
        "are free",
        file=sys.stderr,
        flush=True,
    )
    if not num_there and num_bytes > free:
        raise OSError(
            f"{out_dir} will take about {num_bytes / 1e6:.0f} MB, and "
            f"{free / 1e6:.0f} MB are free; lower --examples_per_cluster, show fewer "
            "--rounds, or use another place."
        )


def _write_tables(
    run: OpenedRun, out_dir: str, state: State, rounds: Mapping[int, _Round]
) -> None:
    """Writes all tables but the overview and those of maps."""
    for round_index, shown_round in rounds.items():
        _write_round(run, out_dir, round_index, shown_round)
    page_files.write_table(out_dir, "media", media_files.media_table(state))
    size = overview.EXAMPLES_PER_BLOCK
    for block, first in enumerate(range(0, run.num_rows, size)):
        rows = range(first, min(first + size, run.num_rows))
        table = {
            "first": first,
            "ids": [run.video_id(example) for example in rows],
            "labels": run.true_labels[rows.start : rows.stop].tolist(),
        }
        page_files.write_table(out_dir, f"examples-{block}", table)


def _write_round(
    run: OpenedRun, out_dir: str, round_index: int, shown_round: _Round
) -> None:
    clusterings = opened_run.read_round(run, round_index)
    columns = {name: arrays.blocks(each.labels) for name, each in clusterings.items()}
    page_files.write_columns(out_dir, f"labels-{round_index:04d}", columns)
    table = shown_round.table
    page_files.write_table(
        out_dir,
        f"round-{round_index:04d}",
        {key: value for key, value in table.items() if key != "flows" or value},
    )


def _table_names(
    run: OpenedRun, rounds: Mapping[int, _Round], maps: Mapping[str, Any]
) -> set[str]:
    """Names of all tables of the folder."""
    num_blocks = -(-run.num_rows // overview.EXAMPLES_PER_BLOCK)
    return {
        *("overview", "media"),
        *(f"examples-{block}" for block in range(num_blocks)),
        *(f"{kind}-{number:04d}" for kind in ("labels", "round") for number in rounds),
        *(f"{kind}-{source}" for kind in ("map", "neighbours") for source in maps),
    }
