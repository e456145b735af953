"""The tables of maps and of neighbours, made anew where features have changed."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from xdc_tf.browse import feature_maps, opened_run, page_files
from xdc_tf.browse.opened_run import OpenedRun
from xdc_tf.browse.page_files import State
from xdc_tf.features.run_matrices import Matrix


def write_maps(
    run: OpenedRun,
    out_dir: str,
    state: State,
    shown: Sequence[int],
    *,
    most_sampled: int,
) -> dict[str, dict[str, Any]]:
    """Writes maps and neighbours, but for those of the same features.

    Args:
      run: whose features they are of.
      out_dir: the folder of pages.
      state: what is there; takes what is made.
      shown: ascending examples that have a clip.
      most_sampled: examples on a map.

    Returns:
      What the overview says of each map.
    """
    maps = {}
    for source in run.first_heads:
        streams = opened_run.latest_features(run, source)
        if streams is None or run.features is None:
            continue
        present = run.features.present
        if not present.any():
            continue
        sample = feature_maps.choose_sample(
            present, shown, seed=run.config.seed, size=most_sampled
        )
        made_of = {
            "extracted_by": run.features.extracted_by,
            "harvested_in": run.features.harvested_in,
            "examples": _digest(sample),
            "shown": _digest(np.asarray(shown)),
        }
        before = state.maps.get(source)
        if not isinstance(before, dict) or before.get("made_of") != made_of:
            print(
                f"map of {source}: {len(sample)} examples", file=sys.stderr, flush=True
            )
            method = _write_map(run, out_dir, source, streams, sample)
            with_media = np.asarray(shown)[present[np.asarray(shown)]]
            rows = feature_maps.read_rows(streams, with_media)
            page_files.write_table(
                out_dir,
                f"neighbours-{source}",
                feature_maps.nearest_neighbours(rows, with_media),
            )
            before = {"made_of": made_of, "method": method}
            state.maps[source] = before
            page_files.write_state(out_dir, state)
        maps[source] = {"sample": len(sample), "method": before["method"]}
    return maps


def _write_map(
    run: OpenedRun,
    out_dir: str,
    source: str,
    streams: Sequence[Matrix],
    sample: np.ndarray,
) -> str:
    feature_map = feature_maps.make_map(
        feature_maps.read_rows(streams, sample), sample, seed=run.config.seed
    )
    x, y = np.round(feature_map.places.astype(float), 3).T
    page_files.write_table(
        out_dir,
        f"map-{source}",
        {"examples": sample.tolist(), "x": x.tolist(), "y": y.tolist()},
    )
    return feature_map.method


def _digest(examples: np.ndarray) -> str:
    return page_files.digest(np.ascontiguousarray(examples, "<i8").tobytes())
