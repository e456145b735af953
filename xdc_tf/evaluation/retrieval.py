"""Retrieval protocol: nearest neighbours of test videos, within and across modalities.

Encoders of two modalities share no space, but their clusters are related: how often an
audio cluster occurs with a video cluster carries a query of one modality over to the
clusters of the other (see cluster_retrieval).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from xdc_tf.data.dataset_info import AUDIO, VIDEO
from xdc_tf.evaluation import cluster_retrieval, frozen_features
from xdc_tf.evaluation.encoder_sources import Source
from xdc_tf.evaluation.frozen_features import SplitFeatures
from xdc_tf.evaluation.labelled_records import Split
from xdc_tf.evaluation.reports import SplitResult
from xdc_tf.kmeans.preprocessing import normalize_rows

KS = (1, 5, 10, 20, 50)
INSTANCE_KS = (1, 10)
_BLOCK_ROWS = 1024


def evaluate_splits(
    source: Source,
    splits: Sequence[Split],
    *,
    streams: Sequence[str],
    num_clips: int = 10,
    ks: Sequence[int] = KS,
    temperature: float = cluster_retrieval.TEMPERATURE,
    batch_size: int | None = None,
    strategy: tf.distribute.Strategy | None = None,
) -> list[list[SplitResult]]:
    """Looks for each test video's neighbours, most of all of its class, in training.

    A video's feature is the mean over its clips, scaled to length one; the nearest is
    that with the highest cosine.

    Args:
      source: of the encoders.
      splits: the training videos are the gallery, the test videos the queries.
      streams: names of the encoders.
      num_clips: evenly spread clips per video.
      ks: numbers of neighbours, ascending.
      temperature: see cluster_retrieval.distributions.
      batch_size: clips per batch over all devices; None for that of the run.
      strategy: the devices; None for the present one.

    Returns:
      For each split one result per stream with rK, the share of queries that have one
      of their class or more among the K nearest. And unless not_across tells why not,
      "video_to_audio" and "audio_to_video" with queries of the first and a gallery of
      the second, and instance_rK, the share of test videos whose own other modality is
      among the K nearest of all test videos. Equal similarities count against the
      query. Details have "num_queries", "gallery_size", and "capped", the Ks that
      exceed the gallery and what was taken for them.

    Raises:
      FileNotFoundError, FloatingPointError: see frozen_features.make_features_of.
      ValueError: there, or on ks or a temperature below the possible.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"ks={list(ks)} must be one or more numbers of at least 1.")
    bridge = None
    if not not_across(source, streams):
        bridge = cluster_retrieval.make_bridge(source.run, temperature=temperature)
    features = frozen_features.of_splits(
        source,
        splits,
        streams=streams,
        num_clips=num_clips,
        average=True,
        batch_size=batch_size,
        strategy=strategy,
    )
    results = []
    for split, of_split in zip(splits, features, strict=True):
        results.append([_within(split, of_split, stream, ks=ks) for stream in streams])
        if bridge is not None:
            results[-1] += [
                _across(split, of_split, bridge, one, other, ks=ks)
                for one, other in ((VIDEO, AUDIO), (AUDIO, VIDEO))
            ]
    return results


def not_across(source: Source, streams: Sequence[str]) -> str:
    """Why there is no retrieval across modalities, in words; "" if there is."""
    missing = [name for name in (VIDEO, AUDIO) if name not in streams]
    if missing:
        return f"no retrieval across modalities without the stream {missing[0]}"
    return cluster_retrieval.lacks(source)


def ranks(
    queries: np.ndarray,
    gallery: np.ndarray,
    *,
    query_labels: np.ndarray,
    gallery_labels: np.ndarray,
    block_rows: int = _BLOCK_ROWS,
) -> np.ndarray:
    """How many of another label come before a query's first one of its own label.

    Args:
      queries: [Q, D] float; the similarity is the inner product.
      gallery: [G, D] float.
      query_labels: [Q] int.
      gallery_labels: [G] int.
      block_rows: queries at a time, whose [block_rows, G] similarities are held.

    Returns:
      [Q] int64: from 0 to G. G if none has its label. What is as similar counts as
      coming before: features that are all the same find nothing.
    """
    found = np.zeros(len(queries), np.int64)
    for start in range(0, len(queries), block_rows):
        rows = slice(start, start + block_rows)
        similarities = queries[rows] @ gallery.T
        own = query_labels[rows, None] == gallery_labels
        best = np.max(similarities, axis=1, where=own, initial=-np.inf)
        found[rows] = np.sum(~own & (similarities >= best[:, None]), axis=1)
    return found


def recalls(
    found: np.ndarray, ks: Sequence[int], *, gallery_size: int, prefix: str = "r"
) -> tuple[dict[str, float], dict[str, int]]:
    """Shares of queries with a right one among the k nearest; what k was capped to.

    Args:
      found: [Q] int, by `ranks`.
      ks: numbers of neighbours.
      gallery_size: G; a larger k is taken for G.
      prefix: of the names.

    Returns:
      By name the recall, and of those whose k exceeds the gallery the k that was taken.
    """
    shares = {f"{prefix}{k}": float(np.mean(found < min(k, gallery_size))) for k in ks}
    return shares, {f"{prefix}{k}": gallery_size for k in ks if k > gallery_size}


def _within(
    split: Split, of_split: SplitFeatures, stream: str, *, ks: Sequence[int]
) -> SplitResult:
    queries, gallery = (
        normalize_rows(tf.constant(part[stream])).numpy()
        for part in (of_split.test, of_split.train)
    )
    values, details = _class_recalls(queries, gallery, split, ks)
    return SplitResult(stream, values, details)


def _across(
    split: Split,
    of_split: SplitFeatures,
    bridge: cluster_retrieval.Bridge,
    one: str,
    other: str,
    *,
    ks: Sequence[int],
) -> SplitResult:
    queries = bridge.carry_over(of_split.test[one], one, other)
    gallery = bridge.describe(of_split.train[other], other)
    values, details = _class_recalls(queries, gallery, split, ks)
    own = np.arange(len(queries))
    instances, capped = recalls(
        ranks(
            queries,
            bridge.describe(of_split.test[other], other),
            query_labels=own,
            gallery_labels=own,
        ),
        INSTANCE_KS,
        gallery_size=len(own),
        prefix="instance_r",
    )
    details["capped"] |= capped
    details |= bridge.details
    return SplitResult(f"{one}_to_{other}", values | instances, details)


def _class_recalls(
    queries: np.ndarray, gallery: np.ndarray, split: Split, ks: Sequence[int]
) -> tuple[dict[str, float], dict[str, Any]]:
    found = ranks(
        queries,
        gallery,
        query_labels=split.test.labels,
        gallery_labels=split.train.labels,
    )
    values, capped = recalls(found, ks, gallery_size=len(gallery))
    return values, {
        "num_queries": len(queries),
        "gallery_size": len(gallery),
        "capped": capped,
    }
