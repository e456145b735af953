"""The methods, as one table: which encoders train, and on which labels.

XDC's section 3 compares four ways to get labels by clustering; the others are its
controls. Encoders ("streams"), heads, k-means runs and losses all follow from a row.
"""

from collections.abc import Container
from typing import NamedTuple

from xdc_tf.data.payloads import AUDIO, VIDEO
from xdc_tf.labels import label_tables

TRUE_LABELS = "true_labels"
JOINT = "joint"
IMPORTED, IMPORTED_AUDIO = "imported", "imported_audio"


class Method(NamedTuple):
    """A row of METHODS.

    Attributes:
      streams: name of each encoder -> the modality it sees, "video" or "audio".
      supervision: name of each encoder -> the label sources it learns from, one head
        each: a stream's name (clusters of its features), JOINT (clusters of all
        streams' features side by side) or TRUE_LABELS (the records' own).
      label_maker: row of label_makers.LABEL_MAKERS that makes the clusterings.
    """

    streams: dict[str, str]
    supervision: dict[str, tuple[str, ...]]
    label_maker: str = "kmeans"


_TWO_MODALITIES = {VIDEO: VIDEO, AUDIO: AUDIO}

METHODS = {
    "sdc": Method(_TWO_MODALITIES, {"video": ("video",), "audio": ("audio",)}),
    "mdc": Method(
        _TWO_MODALITIES, {"video": ("video", "audio"), "audio": ("audio", "video")}
    ),
    "cdc": Method(_TWO_MODALITIES, {"video": (JOINT,), "audio": (JOINT,)}),
    "xdc": Method(_TWO_MODALITIES, {"video": ("audio",), "audio": ("video",)}),
    # XDC's labels swapped between two encoders of one modality that differ in their
    # seed only: what is gained by having two encoders and not by two modalities.
    "same_video": Method(
        {"video": "video", "video2": "video"},
        {"video": ("video2",), "video2": ("video",)},
    ),
    "same_audio": Method(
        {"audio": "audio", "audio2": "audio"},
        {"audio": ("audio2",), "audio2": ("audio",)},
    ),
    "supervised": Method(
        _TWO_MODALITIES, {"video": (TRUE_LABELS,), "audio": (TRUE_LABELS,)}
    ),
    # A released encoder: to be evaluated, exported or started from.
    IMPORTED: Method({VIDEO: VIDEO}, {}),
    IMPORTED_AUDIO: Method({AUDIO: AUDIO}, {}),
}


def method(name: str) -> Method:
    """The row of that name.

    Raises:
      ValueError: if there is none.
    """
    if name not in METHODS:
        raise ValueError(
            f"config.method={name!r} is unknown; choose one of {', '.join(METHODS)}."
        )
    return METHODS[name]


def with_heads(row: Method, num_heads: int) -> Method:
    """The method with several independent clusterings of each clustered source.

    Args:
      row: of METHODS.
      num_heads: clusterings per source; every encoder then has as many heads for it.
    """
    return row._replace(
        supervision={
            stream: tuple(
                label_tables.clustering_name(source, head)
                for source in sources
                for head in range(1 if source == TRUE_LABELS else num_heads)
            )
            for stream, sources in row.supervision.items()
        }
    )


def modalities(row: Method) -> tuple[str, ...]:
    """What the method's encoders see, each once."""
    return tuple(dict.fromkeys(row.streams.values()))


def label_sources(row: Method) -> tuple[str, ...]:
    """All label sources that some head of the method needs, each once, in order."""
    sources = [source for sources in row.supervision.values() for source in sources]
    return tuple(dict.fromkeys(sources))


def clustered_streams(row: Method, source: str) -> tuple[str, ...]:
    """The streams whose features a label source clusters, side by side.

    Empty for TRUE_LABELS.
    """
    if source == TRUE_LABELS:
        return ()
    base = label_tables.source_of(source)
    return tuple(row.streams) if base == JOINT else (base,)


def clustered_sources(row: Method) -> dict[str, tuple[str, ...]]:
    """The sources to cluster, each once whatever its heads -> clustered_streams."""
    clusterings = [source for source in label_sources(row) if source != TRUE_LABELS]
    return {
        label_tables.source_of(source): clustered_streams(row, source)
        for source in clusterings
    }


def head_name(stream: str, source: str) -> str:
    """Name of the head on a stream's encoder that learns a source's labels."""
    return f"{stream}_from_{source}"


def heads_of(row: Method, sources: Container[str]) -> frozenset[str]:
    """Names of the heads that learn the labels of the sources."""
    return frozenset(
        head_name(stream, source)
        for stream, learnt in row.supervision.items()
        for source in learnt
        if source in sources
    )


def head_weights(row: Method) -> dict[str, float]:
    """Weight of each head's loss: those of one source and stream add up to 1."""
    weights = {}
    for stream, sources in row.supervision.items():
        bases = [label_tables.source_of(source) for source in sources]
        for source, base in zip(sources, bases, strict=True):
            weights[head_name(stream, source)] = 1 / bases.count(base)
    return weights
