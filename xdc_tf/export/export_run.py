"""Exports every encoder of a run, in the formats asked for, with a model card."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from xdc_tf.export import model_files
from xdc_tf.labels import agreement
from xdc_tf.labels.label_tables import Clustering
from xdc_tf.models import encoder_files
from xdc_tf.models.encoder_files import Head
from xdc_tf.models.modalities import MODALITIES
from xdc_tf.runtime import compat, escaping, files, json_files, workdir
from xdc_tf.training import supervision, trained_run
from xdc_tf.training.trained_run import FinalClusters, TrainedRun

CARD_FILE = "export.json"
README_FILE = "README.md"
UNSTATED_LICENCE = "unstated; ask whoever trained it"
# Formats that are made beside SavedModel and .keras file: (ending, writer).
FORMATS = {
    "tflite": (".tflite", model_files.save_tflite),
    "onnx": (".onnx", model_files.save_onnx),
}


def export(
    run_dir: str,
    out_dir: str,
    *,
    formats: Sequence[str] = (),
    licence: str = UNSTATED_LICENCE,
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
            raw = MODALITIES[run.streams[stream]].raw_input(
                run.clip, run.audio, encoder.inputs[0].shape[1] is None
            )
            model_files.save_savedmodel(
                encoder, path, raw=raw, heads=heads, clustering=clustering
            )
            # Saved anew: only the arrays of the run's file were checked.
            encoder_files.save_encoder(encoder, f"{path}.keras")
            for name in formats:
                ending, write = FORMATS[name]
                write(encoder, path + ending)
            signatures[stream] = _describe_signatures(run, heads, clustering)
        values = make_card(
            run,
            encoders,
            signatures=signatures,
            clusters=clusters,
            licence=licence,
            results=results,
        )
        card_path = os.path.join(directory, CARD_FILE)
        files.write_text(card_path, json.dumps(values, indent=2) + "\n")
        readme_path = os.path.join(directory, README_FILE)
        files.write_text(readme_path, markdown(values))
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
        model_files.onnx_packages()


def _clusters_if_any(run: TrainedRun) -> trained_run.FinalClusters | None:
    try:
        return trained_run.final_clusters(run)
    except FileNotFoundError:
        return None


def _describe_signatures(
    run: TrainedRun, heads: Mapping[str, Head], clustering: Clustering | None
) -> dict[str, str]:
    """By signature of model_files.signatures what it returns for this run."""
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


def make_card(
    run: TrainedRun,
    encoders: Mapping[str, keras.Model],
    *,
    signatures: Mapping[str, Mapping[str, Any]],
    clusters: FinalClusters | None,
    licence: str,
    results: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Everything that is known of a run's encoders, as JSON values.

    Args:
      run: the run.
      encoders: by stream.
      signatures: for each stream, what its SavedModel's signatures return.
      clusters: of the encoders' features.
      licence: of the weights.
      results: of evaluations, reports as xdc_tf.cli.evaluate writes them; what they
        say of single splits and of the configuration is left out.
    """
    return {
        "method": run.config.method,
        "licence": licence,
        "encoders": {
            f"{stream}_encoder": {
                "modality": run.streams[stream],
                "architecture": run.architectures[run.streams[stream]]._asdict(),
                "parameters": int(encoder.count_params()),
                "features": int(encoder.output_shape[-1]),
                "input": _input_contract(run, run.streams[stream]),
                "signatures": signatures[stream],
            }
            for stream, encoder in encoders.items()
        },
        "data": _data(run),
        "progress": _json_of(run, workdir.ENCODERS_FILE),
        "metrics": {
            "clusters": _cluster_metrics(clusters),
            "evaluations": [_without_details(report) for report in results],
        },
        "config": dict(run.stored_config),
        "versions": compat.versions(),
    }


def _without_details(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report's means and settings, without the paths of a machine."""
    kept = ("protocol", "time", "settings", "notes", "versions")
    return {key: report[key] for key in kept} | {
        "results": [
            result | {"splits": [split["metrics"] for split in result["splits"]]}
            for result in report["results"]
        ]
    }


def _input_contract(run: TrainedRun, name: str) -> dict[str, Any]:
    """The inputs of an encoder of a modality, called and served."""
    modality = MODALITIES[name]
    return {
        "call": modality.call,
        "serving_default": modality.serving,
        **modality.describe(run.clip, run.audio),
        **modality.describe_serving(run.clip),
    }


def _data(run: TrainedRun) -> dict[str, Any]:
    """The records that the encoders were trained on, or the file they came from."""
    if run.info is None:
        report = _json_of(run, workdir.IMPORT_FILE)
        return {key: report.get(key) for key in ("file", "sha256", "layout", "prefix")}
    return {
        "videos": run.info.num_examples,
        "manifest_sha256": run.info.manifest_sha256,
        "frames_per_sec": run.info.fps,
        "short_side": run.info.short_side,
        "label_names": list(run.info.label_names),
    }


def _json_of(run: TrainedRun, name: str) -> dict[str, Any]:
    path = os.path.join(run.directory, name)
    if not os.path.exists(path):
        return {}
    return json_files.read_object(path)


def _cluster_metrics(clusters: FinalClusters | None) -> dict[str, dict[str, float]]:
    if clusters is None:
        return {}
    return {
        source: {
            "clusters": len(clustering.sizes),
            "effective_clusters": agreement.effective_num_clusters(clustering.sizes),
            "inertia_per_example": clustering.inertia / int(clustering.sizes.sum()),
        }
        for source, clustering in clusters.clusterings.items()
    }


def markdown(values: Mapping[str, Any]) -> str:
    """A card for people, of what make_card gives; nothing in it is taken for markup."""
    method = escaping.markdown(values["method"])
    lines = [
        "---",
        f"license: {escaping.yaml(values['licence'])}",
        "library_name: tensorflow",
        "tags: [video, audio, self-supervised]",
        "---",
        "",
        f"# Encoders by {method}",
        "",
    ]
    for name, encoder in values["encoders"].items():
        settings = dict(encoder["architecture"])
        form = [escaping.markdown(settings.pop("architecture"))]
        form += [
            f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in settings.items()
        ]
        lines += [
            f"## {escaping.markdown(name)}",
            "",
            f"{', '.join(form)}: {encoder['parameters']:,} parameters, "
            f"{encoder['features']} features.",
            "",
            *_table("input", encoder["input"]),
            *_table("signature", encoder["signatures"]),
        ]
    lines += ["## Training", "", *_table("data", values["data"])]
    lines += _table("progress", values["progress"])
    lines += ["## Metrics", ""]
    for source, metrics in values["metrics"]["clusters"].items():
        lines += _table(f"clusters of {source}", metrics)
    for report in values["metrics"]["evaluations"]:
        for result in report["results"]:
            means = {
                name: f"{mean:.4g}" + _deviation(result, name)
                for name, mean in result["mean"].items()
            }
            lines += _table(f"{report['protocol']}, {result['stream']}", means)
    lines += [
        f"Licence of the weights: {escaping.markdown(values['licence'])}. The "
        "configuration is in export.json.",
        "",
    ]
    return "\n".join(lines)


def _deviation(result: Mapping[str, Any], name: str) -> str:
    std = result["std"][name]
    return "" if std is None else f" ± {std:.2g} over {len(result['splits'])} splits"


def _table(title: str, values: Mapping[str, Any]) -> list[str]:
    """A table of keys and values."""
    if not values:
        return []
    lines = [f"| {escaping.markdown(title)} | |", "|---|---|"]
    for key, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        lines.append(f"| {escaping.markdown(str(key))} | {escaping.markdown(text)} |")
    return [*lines, ""]
