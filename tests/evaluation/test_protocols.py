"""What a protocol takes of its options, and what its report says."""

import pytest

from xdc_tf.evaluation import finetune, protocols
from xdc_tf.evaluation.finetune_settings import FinetuneSettings
from xdc_tf.evaluation.reports import SplitResult


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
    seen = []

    def evaluate_splits(source, splits, *, settings, streams, **kwargs):
        seen.append(settings)
        details = {"selection": "how"}
        return [[SplitResult(name, {"top1": 1.0}, details) for name in streams]]

    monkeypatch.setattr(finetune, "evaluate_splits", evaluate_splits)
    options = protocols.Options(
        recipe=FinetuneSettings(frozen=frozen, num_epochs=7),
        solver=solver,
        num_clips=5,
        batch_size=3,
    )
    report = protocols.evaluate(protocol, source, [split], options)
    (settings,) = seen
    assert settings == FinetuneSettings(
        frozen=expected, num_epochs=7, num_clips=5, eval_batch_size=3
    )
    assert report["settings"]["frozen"] == expected
    assert report["notes"][-1] == "how"


def test_unknown_protocols_and_solvers_are_named(source, split):
    with pytest.raises(ValueError, match="--protocol=x with --solver=logistic"):
        protocols.evaluate("x", source, [split], protocols.Options())
    with pytest.raises(ValueError, match="--solver=adam is unknown"):
        protocols.evaluate("linear", source, [split], protocols.Options(solver="adam"))
