"""Features of a run's last clustering for TensorBoard's projector.

    tensorboard/projector_config.pbtxt    what there is, written last
    tensorboard/projector/STREAM.tsv      a line of features per example
    tensorboard/projector/metadata.tsv    a line of ids, clusters and labels per example
    tensorboard/projector/sprite.png      a small picture of each

The forms are those of the projector's plugin, which reads paths below the folder of its
configuration alone. Lines are in ascending order of example_index.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xdc_tf.features.extraction import Features
from xdc_tf.labels import health, shown_members
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.runtime import arrays, escaping, files, outputs, pictures
from xdc_tf.runtime import workdir as run_directory
from xdc_tf.training import round_pictures
from xdc_tf.training.run import Run

CONFIG_FILE = "projector_config.pbtxt"
FOLDER = "projector"
_SPRITE_SIDE = 32  # pixels; 10,000 examples are 3200 x 3200
_ROWS_AT_A_TIME = 256
_MOST_CHARS = 120  # of an id


def write(run: Run, features: Features, clusterings: Mapping[str, Clustering]) -> None:
    """Writes the features of a sample of examples, replacing those of an earlier call.

    The sample is of the process's own files, and the same in every call.

    Args:
      run: whose records and work directory they are.
      features: of this process, by its rows.
      clusterings: the last of the run, by name.

    Raises:
      OSError: if the disk fails.
    """
    rows = _choose_rows(run, features)
    if not len(rows):
        return
    examples = run.records.local.rows[rows]
    folder = Path(run.workdir, run_directory.TENSORBOARD_DIR, FOLDER)
    outputs.refuse_link(str(folder))
    tiles = round_pictures.draw_or_warn(run, examples.tolist())
    blank = np.full([_SPRITE_SIDE, _SPRITE_SIDE, 3], 128, np.uint8)
    sprite = pictures.sprite(
        [
            draw_small(tiles[example]) if example in tiles else blank
            for example in examples.tolist()
        ]
    )
    with outputs.replacing(folder) as partial:
        for stream, matrix in features.streams.items():
            _write_matrix(partial / f"{stream}.tsv", matrix, rows)
        (partial / "metadata.tsv").write_text(
            _metadata(run, examples, clusterings), encoding="utf-8"
        )
        (partial / "sprite.png").write_bytes(pictures.png(sprite))
    files.write_text(
        os.path.join(os.path.dirname(folder), CONFIG_FILE),
        _config(list(features.streams), len(rows), run.records.info.num_examples),
    )


def draw_small(tile: np.ndarray) -> np.ndarray:
    """A tile's frame, or its log-mel where there is no frame, at the sprite's size."""
    return pictures.square(tile[: round_pictures.TILE_SIDE], _SPRITE_SIDE)


def _choose_rows(run: Run, features: Features) -> np.ndarray:
    """Ascending rows of the features, those of the lowest priority."""
    number = run.config.tensorboard.projector_examples
    priorities = shown_members.draw_priorities(
        run.records.info.num_rows, seed=run.config.seed
    )
    present = np.flatnonzero(features.present)
    order = np.argsort(priorities[run.records.local.rows[present]], kind="stable")
    return np.sort(present[order[:number]])


def _write_matrix(path: Path, matrix: np.ndarray, rows: np.ndarray) -> None:
    with open(path, "w", encoding="ascii") as file:
        for start in range(0, len(rows), _ROWS_AT_A_TIME):
            block = np.asarray(matrix[rows[start : start + _ROWS_AT_A_TIME]], float)
            np.savetxt(file, block, fmt="%.5g", delimiter="\t")
            arrays.give_back(matrix)


def _metadata(
    run: Run, examples: np.ndarray, clusterings: Mapping[str, Clustering]
) -> str:
    """A header and a line per example; ids and labels may be a stranger's text."""
    records = run.records
    places = np.searchsorted(records.examples.example_indices, examples)
    names = [name for name in clusterings if health.is_first_head(name)]
    lines = [["video_id", "example_index", *(f"cluster_{n}" for n in names), "label"]]
    for example, place in zip(examples.tolist(), places.tolist(), strict=True):
        label = int(records.true_labels[example])
        lines.append(
            [
                _cell(records.examples.video_ids[place]),
                str(example),
                *(str(clusterings[name].labels[example]) for name in names),
                _cell(records.info.label_names[label]) if label >= 0 else "none",
            ]
        )
    return "".join("\t".join(line) + "\n" for line in lines)


def _cell(text: str) -> str:
    """A text without tabs and line breaks, which end a cell or a line."""
    return escaping.terminal(text, max_chars=_MOST_CHARS) or "none"


def _config(streams: Sequence[str], number: int, num_examples: int) -> str:
    """The projector's configuration, a protocol buffer as text."""
    return "".join(
        "embeddings {\n"
        f'  tensor_name: "{stream} features, {number} of {num_examples} examples"\n'
        f'  tensor_path: "{FOLDER}/{stream}.tsv"\n'
        f'  metadata_path: "{FOLDER}/metadata.tsv"\n'
        "  sprite {\n"
        f'    image_path: "{FOLDER}/sprite.png"\n'
        f"    single_image_dim: {_SPRITE_SIDE}\n"
        f"    single_image_dim: {_SPRITE_SIDE}\n"
        "  }\n"
        "}\n"
        for stream in streams
    )
