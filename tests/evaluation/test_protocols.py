"""What a protocol takes of its options, and what its report says."""

import pytest

from configs.finetune import base
from xdc_tf.evaluation import classifier_training, finetune, protocols
from xdc_tf.evaluation.finetune_settings import finetune_settings
from xdc_tf.evaluation.protocols import PROTOCOLS, Options
from xdc_tf.evaluation.reports import SplitResult


def settings_of(protocol, **options):
    row = protocols.load(protocol)
    options = Options(recipe=base.get_config().to_dict(), **options)
    return row.settings.from_options(options)


@pytest.mark.parametrize(
    ("protocol", "solver", "frozen", "expected"),
    [
        ("finetune", "logistic", False, False),
        ("finetune", "logistic", True, True),
        ("linear", "sgd", False, True),
    ],
)
def test_a_recipe_is_frozen_if_it_says_so_or_the_protocol_does(
    source, split, monkeypatch, protocol, solver, frozen, expected
):
    def evaluate(source, split, streams, settings, strategy):
        assert settings.frozen == expected
        details = {"selection": classifier_training.SELECTION_NOTE}
        return [SplitResult(stream, {"top1": 1.0}, details) for stream in streams]

    monkeypatch.setattr(finetune, "_evaluate", evaluate)
    recipe = base.get_config()
    recipe.frozen = frozen
    recipe.training.num_epochs = 7
    settings = protocols.load(protocol).settings.from_options(
        Options(recipe=recipe.to_dict(), solver=solver, num_clips=5, batch_size=3)
    )
    report = protocols.evaluate(protocol, source, [split], settings)
    stated = report["settings"]
    recipe.test.num_clips, recipe.test.eval_batch_size = 5, 3
    recipe.frozen = expected
    assert stated == {
        "streams": ["video", "audio"],
        **finetune_settings(recipe.to_dict()).as_json(),
        **({"solver": "sgd"} if protocol == "linear" else {}),
    }
    assert report["notes"][-1] == classifier_training.SELECTION_NOTE


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("linear", {"num_clips": 3, "solver": "logistic"}),
        (
            "svm",
            {
                "num_clips": 10,
                "cs": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
                "num_folds": 5,
                "max_iterations": 1000,
                "seed": 0,
                "num_jobs": 1,
            },
        ),
        ("retrieval", {"num_clips": 10}),
        (
            "clusters",
            {
                "num_clips": None,
                "clustering": "run",
                "num_clusters": 0,
                "num_seeds": 5,
                "seed": 0,
            },
        ),
    ],
)
def test_a_report_states_the_settings(protocol, expected):
    assert settings_of(protocol).as_json() == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_options_are_the_settings_of_every_protocol(protocol):
    assert settings_of(protocol, num_clips=6).num_clips == 6


def test_unknown_protocols_and_solvers_are_named():
    with pytest.raises(ValueError, match="--protocol=x is unknown; choose one of lin"):
        protocols.load("x")
    with pytest.raises(ValueError, match="solver='adam' must be one of logistic, sgd"):
        settings_of("linear", solver="adam")
