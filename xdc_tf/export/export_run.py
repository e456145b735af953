"""Exports every encoder of a run, in the formats asked for, with a model card."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from xdc_tf.export import interchange, model_card, saved_model
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.models import encoder_files
from xdc_tf.models.encoder_files import Head
from xdc_tf.models.modalities import MODALITIES
from xdc_tf.runtime import files
from xdc_tf.training import supervision, trained_run
from xdc_tf.training.trained_run import TrainedRun

CARD_FILE = "export.json"
README_FILE = "README.md"
# Formats that are made beside SavedModel and .keras file: (ending, writer).
FORMATS = {
    "tflite": (".tflite", interchange.save_tflite),
    "onnx": (".onnx", interchange.save_onnx),
}


def export(
    run_dir: str,
    out_dir: str,
    *,
    formats: Sequence[str] = (),
    licence: str = model_card.UNSTATED_LICENCE,
    results: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """Exports every encoder of a run.

    Args:
      run_dir: work directory of a run that finished a round or more, or of imported
        weights.
      out_dir: made here, whole or not at all; holds STREAM_encoder/ (SavedModel),
        STREAM_encoder.keras, other formats, export.json and README.md.
      formats: keys of FORMATS, to be made too.
      licence: of the weights, for the card.
      results: of evaluations, for the card.

    Returns:
      Paths of the SavedModels.

    Raises:
      FileNotFoundError: without a run or its encoders.
      FileExistsError: if out_dir exists.
      ValueError: on an unknown format, or one whose packages are not installed, or a
        path that TensorFlow would take for a pattern.
      RuntimeError: if a file read back gives other features.
    """
    _check(out_dir, formats)
    run = trained_run.open_run(run_dir)
    encoders = trained_run.load_encoders(run)
    clusters = _clusters_if_any(run)
    with files.new_directory(out_dir) as directory:
        signatures = {}
        for stream, encoder in encoders.items():
            path = os.path.join(directory, f"{stream}_encoder")
            heads = trained_run.load_heads(run, stream)
            clustering = clusters.clusterings.get(stream) if clusters else None
            modality = MODALITIES[run.streams[stream]]
            raw = modality.raw_input(run.clip, run.log_mel)
            saved_model.save(encoder, path, raw=raw, heads=heads, clustering=clustering)
            # Saved anew: only the arrays of the run's file were checked.
            encoder_files.save_encoder(encoder, f"{path}.keras")
            for name in formats:
                ending, write = FORMATS[name]
                write(encoder, path + ending)
            signatures[stream] = _describe_signatures(run, heads, clustering)
        card = model_card.card(
            run,
            encoders,
            signatures=signatures,
            clusters=clusters,
            licence=licence,
            results=results,
        )
        card_path = os.path.join(directory, CARD_FILE)
        files.write_text(card_path, json.dumps(card, indent=2) + "\n")
        readme_path = os.path.join(directory, README_FILE)
        files.write_text(readme_path, model_card.markdown(card))
    return [os.path.join(out_dir, f"{stream}_encoder") for stream in run.streams]


def _check(out_dir: str, formats: Sequence[str]) -> None:
    """Raises before an export what would fail in it; see export."""
    if "://" in out_dir:
        raise ValueError(f"--out={out_dir} must be a local directory; copy it then.")
    files.check_free(out_dir)
    pattern = files.PATTERN.search(os.path.abspath(out_dir))
    if pattern:
        raise ValueError(
            f"--out={out_dir}: TensorFlow cannot open a SavedModel in a folder with "
            f"{pattern[0]} in its name; choose another place."
        )
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown:
        raise ValueError(f"--formats={','.join(unknown)}: choose of {list(FORMATS)}.")
    if "onnx" in formats:
        interchange.onnx_packages()


def _clusters_if_any(run: TrainedRun) -> trained_run.FinalClusters | None:
    try:
        return trained_run.final_clusters(run)
    except FileNotFoundError:
        return None


def _describe_signatures(
    run: TrainedRun, heads: Mapping[str, Head], clustering: Clustering | None
) -> dict[str, str]:
    """By signature of saved_model.signatures what it returns for this run."""
    outputs = {"serving_default": "features [B, D] float32"}
    if heads:
        outputs["probabilities"] = ", ".join(
            f"{source} [B, {len(head.bias)}] float32: "
            + (
                "the labels in the order of data.label_names"
                if source == supervision.TRUE_LABELS and run.info
                else "classes of the imported classifier"
                if source == supervision.TRUE_LABELS
                else f"clusters of {source} that the last round trained on"
            )
            for source, head in heads.items()
        )
    if clustering is not None:
        outputs["clusters"] = (
            f"cluster [B] int32 of {len(clustering.centroids)}, distance and margin "
            "[B] float32: the nearest centroid, and how much farther the next is"
        )
    return outputs
