"""The tables of the comparison of the methods: their rows and their scale.

A table is a list of variants; each is pretrained and evaluated once per seed, all with
the same data, number of clusters and number of updates unless that is what varies.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

SCRATCH, SUPERVISED = "scratch", "supervised"
# The control of both modalities, each by another run.
SAME_MODALITY = "same_modality"
CONTROLS = {"same_video": ("video",), "same_audio": ("audio",)}
BOTH = ("video", "audio")
PROTOCOLS = ("linear", "finetune")


class Scale(NamedTuple):
    """Scale of a comparison.

    Attributes:
      num_unlabelled: videos to pretrain on; supervised training has their labels.
      num_labelled: other videos that classifiers are fitted to.
      num_test: further ones that they are scored on.
      num_rounds: of clustering and training.
      epochs_per_round: of training; supervised has as many in all.
      num_clusters: k.
      labels_per_class: that finetuning is given.
      finetune_epochs: of it.
      num_frames: of a clip, which is a second long.
    """

    num_unlabelled: int
    num_labelled: int
    num_test: int
    num_rounds: int
    epochs_per_round: int
    num_clusters: int = 20
    labels_per_class: int = 5
    finetune_epochs: int = 60
    num_frames: int = 8


SCALES = {
    "small": Scale(
        *(320, 200, 200),
        num_rounds=3,
        epochs_per_round=3,
        finetune_epochs=15,
        num_frames=4,
    ),
    # As many rounds as XDC needs to take off, by clips of half the frames.
    "medium": Scale(768, 300, 400, num_rounds=10, epochs_per_round=4, num_frames=4),
    "full": Scale(1600, 400, 500, num_rounds=8, epochs_per_round=4),
}


class Variant(NamedTuple):
    """A row of a table.

    Attributes:
      row: its name in the table.
      method: of supervision.METHODS, or SCRATCH.
      config: values of the pretraining configuration, by dotted key.
      num_unlabelled: videos to pretrain on; None for those of the scale.
      shared: fraction of them whose audio has the frames' class; None for the kind's.
      microphone_db: strength of a nuisance of their audio.
      streams: that are evaluated.
      protocols: of the evaluation.
    """

    row: str
    method: str
    config: Mapping[str, Any] = {}
    num_unlabelled: int | None = None
    shared: float | None = None
    microphone_db: float | None = None
    streams: tuple[str, ...] = BOTH
    protocols: tuple[str, ...] = PROTOCOLS


def _variant(row: str, method: str, **changes) -> Variant:
    return Variant(row, method, streams=CONTROLS.get(method, BOTH), **changes)


def _methods(scale: Scale, methods: Sequence[str]) -> list[Variant]:
    del scale
    variants = []
    for method in methods:
        if method == SAME_MODALITY:
            variants += [_variant("same modality", name) for name in CONTROLS]
        else:
            variants.append(_variant(method, method))
    return variants


def _along(key: str, values: Callable[[Scale], Sequence]) -> Callable:
    """Variants along one key of the configuration, for each of the methods."""

    def variants(scale: Scale, methods: Sequence[str]) -> list[Variant]:
        return [
            _variant(
                f"{method}, {key.split('.')[-1]}={value}", method, config={key: value}
            )
            for method in methods
            for value in values(scale)
        ]

    return variants


def _along_data(field: str, values: Callable[[Scale], Sequence]) -> Callable:
    """Variants along one property of the unlabelled videos."""

    def variants(scale: Scale, methods: Sequence[str]) -> list[Variant]:
        return [
            _variant(f"{method}, {field}={value}", method, **{field: value})
            for method in methods
            for value in values(scale)
        ]

    return variants


# Random changes of clips that are strong and leave most contents as they are.
AUGMENTED = {
    "augmentation.min_crop_share": 0.6,
    "augmentation.brightness": 0.4,
    "augmentation.contrast": 0.4,
    "augmentation.saturation": 0.4,
    "augmentation.gain_db": 6.0,
    "augmentation.frequency_mask": 10,
    "augmentation.time_mask": 20,
}
# What each row changes of configs/synthetic.py at the scale: one thing at a time.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "as configured": {},
    "half the updates per round": {"training.epochs_per_round": 0.5},
    "twice the updates per round": {"training.epochs_per_round": 2.0},
    "as many updates in half the rounds": {
        "num_rounds": 0.5,
        "training.epochs_per_round": 2.0,
    },
    "as many updates in twice the rounds": {
        "num_rounds": 2.0,
        "training.epochs_per_round": 0.5,
    },
    "a quarter of the clusters": {"kmeans.num_clusters": 0.25},
    "half the clusters": {"kmeans.num_clusters": 0.5},
    "twice the clusters": {"kmeans.num_clusters": 2.0},
    "four times the clusters": {"kmeans.num_clusters": 4.0},
    "ten times the clusters": {"kmeans.num_clusters": 10.0},
    "whitened to 16 dimensions": {"kmeans.pca_components": 16},
    "balanced clusters": {"kmeans.balanced": True},
    "balanced batches": {"training.balance_clusters": True},
    "four heads": {"kmeans.num_heads": 4},
    "features of three clips": {"features.clips_per_video": 3},
    "features harvested in training": {"features.source": "training"},
    "batch-norm statistics of the start": {"features.batch_norm_batches": 0},
    "batch-norm momentum 0.99": {"batch_norm_momentum": 0.99},
    "learning rate x 0.4": {"optimizer.learning_rate": 0.4},
    "learning rate x 2": {"optimizer.learning_rate": 2.0},
    "constant learning rate": {"optimizer.schedule": "constant"},
    "first clusters of random encoders": {"labels.first_features": "encoders"},
    "first clusters for one round": {"labels.first_stay": False},
    "heads kept by matching": {"labels.keep_heads": True},
    "nearest half of each cluster": {"labels.nearest_fraction": 0.5},
    "audio teaches first": {"labels.teacher": "audio", "labels.teacher_rounds": 3},
    "video teaches first": {"labels.teacher": "video", "labels.teacher_rounds": 3},
    "no mirroring": {"augmentation.flip": False},
    "augmented": AUGMENTED,
    "augmented frames": {k: AUGMENTED[k] for k in list(AUGMENTED)[:4]},
    "augmented audio": {k: AUGMENTED[k] for k in list(AUGMENTED)[4:]},
}
# Keys whose values above are factors of what is configured.
_FACTORS = (
    "num_rounds",
    "training.epochs_per_round",
    "kmeans.num_clusters",
    "optimizer.learning_rate",
)


def _settings(scale: Scale, methods: Sequence[str]) -> list[Variant]:
    """One change at a time."""
    from xdc_tf.configs import synthetic

    configured = {
        "num_rounds": scale.num_rounds,
        "training.epochs_per_round": scale.epochs_per_round,
        "kmeans.num_clusters": scale.num_clusters,
        "optimizer.learning_rate": synthetic.get_config().optimizer.learning_rate,
    }

    def value(key: str, change: Any) -> Any:
        if key not in _FACTORS:
            return change
        scaled = change * configured[key]
        return max(1, round(scaled)) if isinstance(configured[key], int) else scaled

    return [
        _variant(
            f"{method}, {row}",
            method,
            config={
                # For the criteria, of which one is accuracy on held-out examples.
                "training.held_out_share": 0.1,
                **{key: value(key, change) for key, change in changes.items()},
            },
            protocols=("linear",),
        )
        for method in methods
        for row, changes in SETTINGS.items()
    ]


# Steps of the small transformers below take about so many times as long as those of the
# residual networks, on a CPU with one thread (python -m benchmarks.encoder_steps).
_TRANSFORMERS_TIME = 2.4


def _encoders(scale: Scale, methods: Sequence[str]) -> list[Variant]:
    """Residual networks and small transformers, at as many updates and as much time."""
    from xdc_tf.configs import transformers

    form = {"size": "Ti", "depth": 2, "patch": 8}
    config = {
        "video_encoder": transformers.video_encoder(**form).to_dict(),
        "audio_encoder": transformers.audio_encoder(**form, stride=8).to_dict(),
        "optimizer.name": "adamw",
        "optimizer.learning_rate": 5e-4,
        "optimizer.weight_decay": 0.05,
        "optimizer.clip_norm": 1.0,
    }
    # Rounds of half as many epochs, so that there are nearly as many rounds.
    epochs = max(1, scale.epochs_per_round // 2)
    num_epochs = scale.num_rounds * scale.epochs_per_round / _TRANSFORMERS_TIME
    less = {
        "num_rounds": max(1, round(num_epochs / epochs)),
        "training.epochs_per_round": epochs,
    }
    rows = {
        "residual networks": {},
        "transformers, as many updates": config,
        "transformers, as much time": config | less,
    }
    return [
        _variant(f"{method}, {row}", method, config=changes, protocols=("linear",))
        for method in methods
        for row, changes in rows.items()
    ]


def _start(scale: Scale, methods: Sequence[str]) -> list[Variant]:
    """What the first clusters are of, next to random encoders."""
    del scale
    rows = {"statistics": "statistics", "random encoders": "encoders"}
    return [
        Variant(SCRATCH, SCRATCH, protocols=("linear",)),
        *(
            _variant(
                f"{method}, first clusters of {name}",
                method,
                config={
                    "training.held_out_share": 0.1,
                    "labels.first_features": first_features,
                },
                protocols=("linear",),
            )
            for method in methods
            for name, first_features in rows.items()
        ),
    ]


class Table(NamedTuple):
    """A table: its rows by scale and methods.

    Attributes:
      title: what it compares, for the page.
      methods: that it has unless others are asked for.
      variants: function of scale and methods.
      reference: row that the others are tested against, if it is among them; else xdc
        is, or the last.
    """

    title: str
    methods: tuple[str, ...]
    variants: Callable[[Scale, Sequence[str]], list[Variant]]
    reference: str = "xdc"


def _rounds(scale: Scale, methods: Sequence[str]) -> list[Variant]:
    """Rounds and epochs per round with the same number of updates."""
    total = scale.num_rounds * scale.epochs_per_round
    return [
        _variant(
            f"{method}, rounds={rounds}",
            method,
            config={"num_rounds": rounds, "training.epochs_per_round": total // rounds},
        )
        for method in methods
        for rounds in range(1, total + 1)
        if total % rounds == 0
    ]


def _num_unlabelled(scale: Scale, methods: Sequence[str]) -> list[Variant]:
    """Numbers of videos with the same number of updates: fewer are seen more often."""
    from xdc_tf.configs import synthetic

    batch_size = synthetic.get_config().training.batch_size

    def config(number):
        all_steps, steps = (
            max(1, videos // batch_size) for videos in (scale.num_unlabelled, number)
        )
        epochs = round(scale.epochs_per_round * all_steps / steps)
        return {"training.epochs_per_round": epochs}

    numbers = [scale.num_unlabelled // part for part in (8, 4, 2, 1)]
    return [
        _variant(
            f"{method}, num_unlabelled={number}",
            method,
            config=config(number),
            num_unlabelled=number,
        )
        for method in methods
        for number in numbers
    ]


TABLES = {
    "methods": Table(
        "the methods",
        (SCRATCH, SAME_MODALITY, "sdc", "mdc", "cdc", "xdc", SUPERVISED),
        _methods,
    ),
    "clusters": Table(
        "the number of clusters",
        ("xdc",),
        _along("kmeans.num_clusters", lambda scale: (5, 10, 20, 40, 80)),
    ),
    "data": Table(
        "the number of unlabelled videos, at as many updates", ("xdc",), _num_unlabelled
    ),
    "shared": Table(
        "the fraction of videos whose audio has the frames' class",
        ("xdc",),
        _along_data("shared", lambda scale: (0.0, 0.25, 0.5, 0.75, 1.0)),
    ),
    # One thing at a time, for questions that the others raise.
    "rounds": Table("rounds, at as many updates", ("xdc",), _rounds),
    "updates": Table(
        "epochs per round",
        ("xdc",),
        _along("training.epochs_per_round", lambda scale: (1, 2, 4, 8)),
    ),
    "settings": Table(
        "settings, one changed at a time", ("xdc",), _settings, "xdc, as configured"
    ),
    "start": Table("what the first clusters are of", ("xdc",), _start, SCRATCH),
    "encoders": Table(
        "residual networks and transformers",
        ("xdc",),
        _encoders,
        "xdc, residual networks",
    ),
    "normalize": Table(
        "L2-normalised features for k-means",
        ("xdc",),
        _along("kmeans.normalize", lambda scale: (True, False)),
    ),
    "nuisance": Table(
        "the strength of the microphones",
        ("xdc",),
        _along_data("microphone_db", lambda scale: (0.0, 6.0, 12.0)),
    ),
}
