"""The card of an export, as JSON and as Markdown."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from xdc_tf.labels import agreement
from xdc_tf.models.modalities import MODALITIES
from xdc_tf.runtime import compat, escaping, json_files, workdir
from xdc_tf.training.trained_run import FinalClusters, TrainedRun

UNSTATED_LICENCE = "unstated; ask whoever trained it"


def card(
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
        **modality.describe(run.clip, run.log_mel),
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
    """A card for people, of what `card` gives; nothing in it is taken for markup."""
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
