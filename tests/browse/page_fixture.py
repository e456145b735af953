"""A folder of cluster pages with made-up tables and small real clips."""

import json
import math
import pathlib
import shutil
from typing import Any, NamedTuple

import av
import numpy as np
import plotly.offline
from PIL import Image, ImageDraw

PAGE_DIR = pathlib.Path(__file__).parents[2] / "xdc_tf" / "browse" / "page"
SOURCES = ("audio", "video")
SHOWN_ROUNDS = (0, 1, 3)
NUM_ROUNDS = 4
HOSTILE_TEXTS = (
    "<script>window.hacked = 1</script>",
    "\"><img src=x onerror='window.hacked = 1'>",
    "</script><script>window.hacked = 1</script>",
    "\u202e\u05d0\u05d1\u05d2 abc, \"quoted\" 'too' \u2028 & more",
    "long " * 800,
)
MUTE_EVERY = 6  # every so many examples have no sound
MISSING_EXAMPLE = 17  # a hole in the records
_TIME_BASE_HZ = 24000


class Sizes(NamedTuple):
    """How large the tables are."""

    num_examples: int = 90
    num_clusters: int = 6
    num_classes: int = 7
    members_per_kind: int = 4
    examples_per_block: int = 40
    shared_media: bool = False


_SIZES = Sizes()


def write_page(folder: pathlib.Path, sizes: Sizes = _SIZES) -> dict[str, Any]:
    """Writes a complete page. Returns its tables by name."""
    folder.mkdir(parents=True)
    for path in PAGE_DIR.iterdir():
        if path.suffix in (".html", ".js", ".css"):
            shutil.copyfile(path, folder / path.name)
    (folder / "plotly.min.js").write_text(
        plotly.offline.get_plotlyjs(), encoding="utf-8"
    )
    tables = _make_tables(sizes)
    _write_media(folder, tables["media"], sizes)
    (folder / "data").mkdir()
    for name, table in tables.items():
        write_table(folder, name, table)
    return tables


def write_table(folder: pathlib.Path, name: str, table: Any) -> None:
    """Writes a table as the script that the page loads."""
    text = json.dumps(table, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    (folder / "data" / f"{name}.js").write_text(f'page_data("{name}", {text});\n')


def _make_tables(sizes: Sizes) -> dict[str, Any]:
    random = np.random.default_rng(0)
    count = sizes.num_examples
    classes = np.arange(count) % sizes.num_classes
    classes[random.random(count) < 0.05] = -1
    classes[MISSING_EXAMPLE] = -1
    ids = [f"folder/clip_{index:06d}.mp4" for index in range(count)]
    for index, text in enumerate(HOSTILE_TEXTS):
        ids[index] = f"{text}.mp4"
    ids[MISSING_EXAMPLE] = ""
    labels = {
        round_number: {
            source: _clusters(random, classes, round_number, sizes)
            for source in SOURCES
        }
        for round_number in range(NUM_ROUNDS)
    }
    tables: dict[str, Any] = {}
    shown: set[int] = set()
    for round_number in SHOWN_ROUNDS:
        before = round_number - 1 if round_number else None
        table = _round_table(random, round_number, before, labels, classes, sizes)
        tables[f"round-{round_number:04d}"] = table
        tables[f"labels-{round_number:04d}"] = {
            source: clusters.tolist()
            for source, clusters in labels[round_number].items()
        }
        shown.update(_shown_examples(table))
    for block in range(math.ceil(count / sizes.examples_per_block)):
        first = block * sizes.examples_per_block
        rows = slice(first, first + sizes.examples_per_block)
        tables[f"examples-{block}"] = {
            "first": first,
            "ids": ids[rows],
            "labels": classes[rows].tolist(),
        }
    with_media = sorted(shown)
    tables["media"] = {str(index): _medium(index, sizes) for index in with_media}
    present = np.flatnonzero(np.arange(count) != MISSING_EXAMPLE)
    for source in SOURCES:
        angles = labels[NUM_ROUNDS - 1][source][present] * 2.4
        spread = random.normal(size=(2, len(present))) * 0.4
        radius = 1 + labels[NUM_ROUNDS - 1][source][present] ** 0.5
        tables[f"map-{source}"] = {
            "examples": present.tolist(),
            "x": (np.cos(angles) * radius + spread[0]).round(4).tolist(),
            "y": (np.sin(angles) * radius + spread[1]).round(4).tolist(),
        }
        nearest = random.choice(with_media, size=(len(with_media), 10))
        cosines = np.linspace(0.95, 0.5, 10).round(3).tolist()
        tables[f"neighbours-{source}"] = {
            str(index): [
                [int(other), cosine] for other, cosine in zip(row, cosines, strict=True)
            ]
            for index, row in zip(with_media, nearest, strict=True)
        }
    tables["overview"] = _overview(labels, classes, sizes)
    return tables


def _clusters(random, classes, round_number, sizes):
    """Clusters that follow the classes the better, the later the round."""
    clusters = np.where(classes < 0, 0, classes) % sizes.num_clusters
    if sizes.num_clusters > sizes.num_classes:
        clusters = np.arange(len(classes)) % sizes.num_clusters
    moved = random.random(len(classes)) < 0.6 / (1 + round_number)
    clusters = np.where(
        moved, random.integers(sizes.num_clusters, size=len(classes)), clusters
    )
    clusters[MISSING_EXAMPLE] = -1
    return clusters


def _commonest(values, limit=12):
    numbers, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:limit]
    return [[int(numbers[place]), int(counts[place])] for place in order]


def _pairs(first, second):
    pairs, counts = np.unique(np.stack([first, second]), axis=1, return_counts=True)
    return [
        [int(a), int(b), int(count)]
        for a, b, count in zip(*pairs, counts, strict=True)
        if a >= 0 and b >= 0
    ]


def _round_table(random, round_number, before, labels, classes, sizes):
    table: dict[str, Any] = {"round": round_number, "clusterings": {}, "flows": {}}
    for source, other in (SOURCES, SOURCES[::-1]):
        own = labels[round_number][source]
        clusters = []
        for cluster in range(sizes.num_clusters):
            members = np.flatnonzero(own == cluster)
            of_classes = _commonest(classes[members])
            of_other = _commonest(labels[round_number][other][members])
            churn = None
            if before is not None and len(members):
                churn = float(np.mean(labels[before][source][members] != cluster))
            size = max(1, len(members))
            clusters.append(
                {
                    "cluster": cluster,
                    "size": len(members),
                    "dispersion": round(0.2 + 0.05 * ((cluster * 7) % 11), 3),
                    "purity": of_classes[0][1] / size if of_classes else None,
                    "churn": churn,
                    "agreement": {other: of_other[0][1] / size if of_other else 0.0},
                    "classes": of_classes,
                    "others": {other: of_other},
                    "members": _members(random, members, sizes),
                }
            )
        table["clusterings"][source] = {"clusters": clusters}
        if before is not None:
            flows = _pairs(labels[before][source], own)
            table["flows"][source] = {"from": before, "counts": flows}
    rows, columns = (labels[round_number][source] for source in SOURCES)
    counts = _pairs(rows, columns)
    examples = {}
    for row, column, _ in counts[:400]:
        inside = np.flatnonzero((rows == row) & (columns == column))[:8]
        examples[f"{row},{column}"] = inside.tolist()
    table["cross"] = {
        "rows": SOURCES[0],
        "columns": SOURCES[1],
        "counts": counts,
        "examples": examples,
        "disagreeing": np.flatnonzero(rows != columns)[:24].tolist(),
    }
    return table


def _members(random, members, sizes):
    result = []
    for kind in ("typical", "borderline", "random"):
        count = min(len(members), sizes.members_per_kind)
        chosen = random.choice(members, size=count, replace=False) if count else []
        for place, example in enumerate(chosen):
            result.append(
                {
                    "example": int(example),
                    "kind": kind,
                    "distance": round(0.1 + 0.01 * place, 3),
                    "margin": round(0.3 - 0.01 * place, 3),
                }
            )
    return result


def _shown_examples(table):
    for clustering in table["clusterings"].values():
        for cluster in clustering["clusters"]:
            yield from (member["example"] for member in cluster["members"])
    for examples in table["cross"]["examples"].values():
        yield from examples
    yield from table["cross"]["disagreeing"]


def _medium(index, sizes):
    has_sound = index % MUTE_EVERY != 0
    kind = index % 5
    name = f"shared{kind}{'' if has_sound else '_mute'}"
    path = f"media/{name if sizes.shared_media else index}"
    return {
        "clip": f"{path}.mp4",
        "poster": f"{path}.jpg",
        "spectrogram": f"{path}.png" if has_sound else None,
        "secs": 2.0,
        "has_sound": has_sound,
        "from": "file" if index % 2 else "records",
        "note": "" if has_sound else "no sound stored",
    }


def _overview(labels, classes, sizes):
    def health(round_number, source, other):
        own = labels[round_number][source]
        fractions = np.bincount(own[own >= 0], minlength=sizes.num_clusters) / len(own)
        positive = fractions[fractions > 0]
        entropy = -float(np.sum(positive * np.log(positive)))
        growth = round_number / NUM_ROUNDS
        return {
            "num_clusters": sizes.num_clusters,
            "effective_clusters": math.exp(entropy),
            "empty_clusters": int(np.sum(fractions == 0)),
            "largest_fraction": float(fractions.max()),
            "nmi_labels": 0.3 + 0.6 * growth,
            "nmi_previous": 0.4 + 0.5 * growth if round_number else None,
            "nmi": {other: 0.2 + 0.5 * growth},
        }

    names = [f"class {index}" for index in range(sizes.num_classes)]
    names[: len(HOSTILE_TEXTS)] = HOSTILE_TEXTS
    both = (SOURCES, SOURCES[::-1])
    return {
        "format": 1,
        "title": "run <b>one</b>",
        "created": "2026-01-01T00:00:00Z",
        "version": "0.1.0",
        "method": "xdc",
        "command": "xdc-tf browse --workdir=run --out=page",
        "config": {"kmeans.num_clusters": sizes.num_clusters, "method": "xdc"},
        "data": {
            "records": "records",
            "num_examples": sizes.num_examples - 1,
            "num_rows": sizes.num_examples,
            "num_quarantined": 1,
            "hours": round(sizes.num_examples * 2 / 3600, 2),
            "modalities": ["video", "audio"],
            "label_names": names,
        },
        "sources": list(SOURCES),
        "rounds": [
            {
                "round": number,
                "clusterings": {
                    source: health(number, source, other) for source, other in both
                },
            }
            for number in range(NUM_ROUNDS)
        ],
        "shown_rounds": list(SHOWN_ROUNDS),
        "evaluations": [
            {
                "name": "results.json",
                "protocol": "linear",
                "rows": [
                    {"stream": "video", "top1": 0.9412, "top5": 1.0},
                    {"stream": "audio", "top1": 0.88, "top5": None},
                ],
            }
        ],
        "warnings": [
            {
                "kind": "silence",
                "round": 3,
                "source": "audio",
                "cluster": 2,
                "text": f"Half of the cluster is silent. {HOSTILE_TEXTS[0]}",
                "advice": "Remove the silent videos, or name the cluster junk.",
            },
            {
                "kind": "collapse",
                "round": 3,
                "source": "video",
                "cluster": None,
                "text": "Two clusters hold most of the videos.",
                "advice": "Balance the clusters.",
            },
        ],
        "examples_per_block": sizes.examples_per_block,
        "num_blocks": math.ceil(sizes.num_examples / sizes.examples_per_block),
        "maps": {
            source: {"sample": sizes.num_examples - 1, "method": "PCA to 50, t-SNE"}
            for source in SOURCES
        },
    }


def _write_media(folder, media, sizes):
    """Five clips with sound and five without, under the name of every example."""
    (folder / "media").mkdir()
    for kind in range(5):
        for has_sound in (True, False):
            name = f"shared{kind}{'' if has_sound else '_mute'}"
            _write_clip(folder / "media" / f"{name}.mp4", kind, has_sound)
            picture = Image.fromarray(_frame(kind, 0))
            picture.save(folder / "media" / f"{name}.jpg")
            if has_sound:
                _write_spectrogram(folder / "media" / f"{name}.png", kind)
    if sizes.shared_media:
        return
    for key, medium in media.items():
        mute = "" if medium["has_sound"] else "_mute"
        for ending in ("mp4", "jpg", *(() if mute else ("png",))):
            source = folder / "media" / f"shared{int(key) % 5}{mute}.{ending}"
            (folder / "media" / f"{key}.{ending}").hardlink_to(source)


def _frame(kind, time):
    """A moving square on a coloured ground: [96, 128, 3] uint8."""
    picture = Image.new("RGB", (128, 96), (40 + 40 * kind, 90, 200 - 35 * kind))
    left = 8 + int(80 * time)
    ImageDraw.Draw(picture).rectangle((left, 30, left + 30, 60), fill="white")
    return np.asarray(picture)


def _write_clip(path, kind, has_sound, *, secs=2.0, fps=8, rate=_TIME_BASE_HZ):
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        video = container.add_stream("libx264", rate=fps)
        video.width, video.height, video.pix_fmt = 128, 96, "yuv420p"
        audio = container.add_stream("aac", rate=rate) if has_sound else None
        for index in range(int(secs * fps)):
            picture = _frame(kind, index / (secs * fps))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is None:
            return
        times = np.arange(int(secs * rate)) / rate
        tone = (0.5 * np.sin(2 * np.pi * (220 + 110 * kind) * times)).astype("f4")
        for first in range(0, len(tone), 1024):
            frame = av.AudioFrame.from_ndarray(
                tone[None, first : first + 1024], format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = rate, first
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


def _write_spectrogram(path, kind):
    levels = np.exp(-(((np.arange(40)[::-1, None] - 6 - 6 * kind) / 4) ** 2))
    picture = np.repeat(levels * 255, 120, axis=1).astype(np.uint8)
    Image.fromarray(picture, "L").save(path)
