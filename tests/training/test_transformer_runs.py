"""A run whose encoders are transformers, and what is made of it."""

import numpy as np
import pytest
import tensorflow as tf
from clip_settings import clip_of
from prepared_runs import ONE_DEVICE, make_run, make_step, pretrain_on

from configs import transformers
from xdc_tf.evaluation import encoder_sources
from xdc_tf.export import export_run
from xdc_tf.models import encoder_table, layers
from xdc_tf.models.layers import LayerSettings
from xdc_tf.planning import operations
from xdc_tf.runtime import compat
from xdc_tf.training import configuration, monitoring, trained_run
from xdc_tf.training.batches import training_batches

DROP_PATH = 0.3


def use_transformers(config, drop_path=DROP_PATH):
    """The configuration with a block of each modality's smallest transformer."""
    config["video_encoder"] = transformers.video_encoder(
        size="Ti", depth=2, patch=8, pool="class", class_tokens=1, drop_path=drop_path
    ).to_dict()
    config["audio_encoder"] = transformers.audio_encoder(
        size="Ti", depth=2, patch=20, stride=20, drop_path=drop_path
    ).to_dict()
    config["optimizer"] |= {
        "name": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.05,
        "layer_decay": 0.9,
        "clip_norm": 1.0,
    }
    return config


@pytest.fixture(scope="module")
def run_dir(new_tiny_config, tiny_records, tmp_path_factory):
    """Work directory of a finished run."""
    workdir = tmp_path_factory.mktemp("transformers") / "run"
    pretrain_on(use_transformers(new_tiny_config()), tiny_records, workdir)
    return workdir


def test_a_run_trains_them_and_saves_what_others_load(run_dir):
    run = trained_run.open_run(str(run_dir))
    trained = trained_run.load_encoders(run)
    initial = trained_run.load_encoders(run, initial=True)
    for stream, encoder in trained.items():
        assert encoder.output_shape == (None, 192)
        for name in ("patches", "positions", "block2_attention"):
            before, after = (
                model.get_layer(name).get_weights()
                for model in (initial[stream], encoder)
            )
            assert np.isfinite(np.concatenate([a.ravel() for a in after])).all()
            assert not np.array_equal(before[0], after[0]), (stream, name)


@pytest.mark.slow
def test_the_same_run_with_stochastic_depth_gives_the_same_bits(
    run_dir, tiny_config, tiny_records, tmp_path
):
    pretrain_on(use_transformers(tiny_config), tiny_records, tmp_path / "again")
    for stream in ("video", "audio"):
        first, again = (
            trained_run.load_encoder(trained_run.open_run(str(directory)), stream)
            for directory in (run_dir, tmp_path / "again")
        )
        for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_stochastic_depth_differs_between_steps_and_not_in_evaluation(
    tiny_config, tiny_records, tmp_path
):
    config = use_transformers(tiny_config)
    config["optimizer"]["learning_rate"] = 0.0
    run = make_run(config, tiny_records, tmp_path)
    compat.set_learning_rate(run.state.optimizer, 0.0)
    step, batch = make_step(run), next(training_batches(run))
    first, second = (monitoring.head_means([step(batch).sums]) for _ in range(2))
    for head, values in first.items():
        assert values["loss"] != second[head]["loss"]


@pytest.mark.slow
def test_two_devices_take_the_step_of_one_in_one_or_two_parts(
    tiny_config, tiny_records, tmp_path, two_devices
):
    config = use_transformers(tiny_config, drop_path=0.0)
    after = []
    for number, (strategy, parts) in enumerate(
        ((ONE_DEVICE, 1), (two_devices, 1), (ONE_DEVICE, 2))
    ):
        config["training"]["accumulate_steps"] = parts
        run = make_run(config, tiny_records, tmp_path / str(number), strategy)
        compat.set_learning_rate(run.state.optimizer, 1e-3)
        result = make_step(run, clip_norm=0.5)(next(training_batches(run)))
        means = monitoring.head_means([result.sums])
        losses = [values["loss"] for values in means.values()]
        weights = [v.numpy() for v in run.state.model.trainable_variables]
        after.append((losses, weights))
    for losses, weights in after[1:]:
        np.testing.assert_allclose(losses, after[0][0], rtol=1e-5)
        for found, expected in zip(weights, after[0][1], strict=True):
            # A step of AdamW is of its rate wherever a gradient is not zero.
            assert np.abs(found - expected).mean() < 2e-5


@pytest.mark.slow
@pytest.mark.once
def test_clipped_gradients_move_the_weights_by_no_more_than_the_norm(
    tiny_config, tiny_records, tmp_path
):
    config = use_transformers(tiny_config)
    config["optimizer"] |= {"name": "sgd", "layer_decay": 1.0, "weight_decay": 0.0}
    run = make_run(config, tiny_records, tmp_path)
    compat.set_learning_rate(run.state.optimizer, 0.5)
    moved = []
    for norm in (0.0, 0.01):
        before = [v.numpy() for v in run.state.model.trainable_variables]
        make_step(run, clip_norm=norm)(next(training_batches(run)))
        changes = [
            v.numpy() - old
            for v, old in zip(run.state.model.trainable_variables, before, strict=True)
        ]
        moved.append(np.sqrt(sum(np.square(change).sum() for change in changes)))
        for variable in compat.optimizer_variables(run.state.optimizer):
            variable.assign(tf.zeros_like(variable))
    assert moved[0] > 0.05
    assert moved[1] == pytest.approx(0.5 * 0.01, rel=1e-3)


@pytest.mark.slow
def test_an_export_takes_clips_of_the_runs_length(run_dir, tmp_path):
    out = tmp_path / "export"
    export_run.export(str(run_dir), str(out), formats=("tflite",))
    run = trained_run.open_run(str(run_dir))
    frames = np.random.default_rng(0).integers(0, 255, (2, 4, 24, 32, 3), np.uint8)
    waveform = np.random.default_rng(0).normal(size=(2, 8000)).astype(np.float32)
    raw = {"video": {"frames": frames}, "audio": {"waveform": 0.1 * waveform}}
    for stream, inputs in raw.items():
        module = tf.saved_model.load(str(out / f"{stream}_encoder"))
        serve = module.signatures["serving_default"]
        ((name, values),) = inputs.items()
        features = serve(**{name: tf.constant(values)})["features"]
        expected = trained_run.load_encoder(run, stream)(
            module.prepare(values), training=False
        )
        np.testing.assert_allclose(features, expected, atol=1e-4)
        with pytest.raises((ValueError, TypeError, tf.errors.InvalidArgumentError)):
            serve(**{name: tf.constant(values[:, : values.shape[1] // 2])})


@pytest.mark.once
def test_evaluation_at_another_clip_takes_resized_positions(run_dir):
    source = encoder_sources.open_source(str(run_dir))
    clip = source.run.clip._replace(num_frames=8, crop_size=32)
    encoder = encoder_sources.load_encoder(source, "video", clip)
    assert encoder.input_shape == (None, 8, 32, 32, 3)
    original = encoder_sources.load_encoder(source, "video")
    np.testing.assert_array_equal(
        encoder.get_layer("block1_attention").get_weights()[0],
        original.get_layer("block1_attention").get_weights()[0],
    )
    assert encoder.get_layer("positions").bias.shape == (1 + 4 * 4 * 4, 192)
    wrong = clip._replace(crop_size=30)
    with pytest.raises(ValueError, match="patch=8 does not divide .*crop_size=30"):
        encoder_sources.load_encoder(source, "video", wrong)


@pytest.mark.once
def test_a_run_at_another_clip_starts_from_it(
    run_dir, tiny_config, tiny_records, tmp_path
):
    config = use_transformers(tiny_config)
    config["init_from"] = str(run_dir)
    config["clip"]["crop_size"] = 24
    run = make_run(config, tiny_records, tmp_path)
    source = trained_run.load_encoder(trained_run.open_run(str(run_dir)), "video")
    started = run.state.model.encoders["video"]
    assert started.get_layer("positions").bias.shape == (1 + 2 * 9, 192)
    for index in (0, 1):
        np.testing.assert_array_equal(
            started.get_layer("patches").get_weights()[index],
            source.get_layer("patches").get_weights()[index],
        )


def test_operations_are_those_of_the_formula():
    settings = encoder_table.settings_of(
        "video",
        transformers.video_encoder(size="S", depth=3, class_tokens=1).to_dict(),
    )
    clip = clip_of((8, 64, 64, 3))
    encoder = encoder_table.build(settings, LayerSettings(), "e", clip)
    n, d, depth = 1 + 4 * 16, 384, 3
    block = 2 * n * 12 * d * d + 4 * n * n * d
    patches = 2 * (n - 1) * 2 * 16 * 16 * 3 * d
    cost = operations.count(encoder, (8, 64, 64, 3))
    assert cost.flops == depth * block + patches + 2 * n * d
    assert cost.num_parameters == encoder.count_params()
    assert cost.width == d
    # A block keeps its inputs, queries, keys, values, sums, weights, and 4 d twice.
    least = 4 * depth * (6 * n * d + 6 * n * n + 8 * n * d)
    assert least < cost.kept_bytes < 1.8 * least
    folded = operations.count(layers.fold(encoder), (8, 64, 64, 3))
    assert folded.flops == cost.flops


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_frames", 5, "video_encoder.tubelet=2 does not divide .*num_frames=5"),
        ("crop_size", 20, "video_encoder.patch=8 does not divide .*crop_size=20"),
        (
            "audio_secs",
            0.1,
            "audio_encoder.patch=20 is larger than the log-mel .* 5 frames",
        ),
    ],
)
def test_a_clip_that_does_not_fit_is_rejected_before_records_are_read(
    key, value, message, tiny_config, tmp_path
):
    config = use_transformers(tiny_config)
    config["clip"][key] = value
    with pytest.raises(ValueError, match=message):
        make_run(config, tmp_path / "nothing", tmp_path / "run")


@pytest.mark.parametrize(
    "precision",
    ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)],
)
def test_gradient_checkpointing_changes_no_step(
    tiny_config, tiny_records, tmp_path, precision
):
    config = use_transformers(tiny_config) | {"precision": precision}
    after = []
    for recomputes in (False, True):
        run = make_run(config, tiny_records, tmp_path / str(recomputes))
        compat.set_learning_rate(run.state.optimizer, 1e-3)
        before = [v.numpy() for v in run.state.model.trainable_variables]
        result = make_step(run, recomputes=recomputes)(next(training_batches(run)))
        weights = [v.numpy() for v in run.state.model.trainable_variables]
        after.append((monitoring.head_means([result.sums]), weights))
    exact = precision == "float32"
    for head, values in after[0][0].items():
        # In bfloat16 what is not kept for gradients is computed at once, and rounded
        # less often.
        found = after[1][0][head]["loss"]
        assert found == pytest.approx(values["loss"], rel=1e-6 if exact else 1e-3)
    differences, moves = [], []
    for found, expected, start in zip(after[1][1], after[0][1], before, strict=True):
        differences.append(np.abs(found - expected).ravel())
        moves.append(np.abs(expected - start).ravel())
        assert moves[-1].max() > 0
    # A step of AdamW is of its rate wherever a gradient is not zero.
    share = np.concatenate(differences).mean() / np.concatenate(moves).mean()
    assert share < (1e-4 if exact else 0.2)


@pytest.mark.slow
def test_gradient_checkpointing_on_two_devices_in_two_parts_is_that_of_one(
    tiny_config, tiny_records, tmp_path, two_devices
):
    config = use_transformers(tiny_config, drop_path=0.0)
    losses = []
    for number, (strategy, parts) in enumerate(((ONE_DEVICE, 1), (two_devices, 2))):
        config["training"]["accumulate_steps"] = parts
        run = make_run(config, tiny_records, tmp_path / str(number), strategy)
        compat.set_learning_rate(run.state.optimizer, 1e-3)
        step, batches = make_step(run, recomputes=True), training_batches(run)
        losses.append(
            [
                value["loss"]
                for _ in range(2)
                for value in monitoring.head_means([step(next(batches)).sums]).values()
            ]
        )
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_gradient_checkpointing_of_residual_networks_is_refused(tiny_config):
    tiny_config["training"]["gradient_checkpointing"] = True
    with pytest.raises(ValueError, match="gradient_checkpointing=True is for transf"):
        configuration.from_mapping(tiny_config)


def test_with_gradient_checkpointing_a_plan_keeps_a_tensor_for_each_block():
    settings = transformers.audio_encoder(size="Ti", patch=20, stride=20)
    clip = clip_of((100, 40, 1))
    costs = {}
    for depth in (2, 3, 4):
        encoder = encoder_table.build(
            encoder_table.settings_of("audio", {**settings.to_dict(), "depth": depth}),
            LayerSettings(fast=True),
            "audio_encoder",
            clip,
        )
        shape = encoder.input_shape[1:]
        costs[depth] = [
            operations.count(encoder, shape, recomputes=again)
            for again in (True, False)
        ]
    tokens = 5 * 2
    grown = costs[4][0].kept_bytes - costs[3][0].kept_bytes
    assert grown == costs[3][0].kept_bytes - costs[2][0].kept_bytes
    assert grown == 4 * tokens * 192
    assert costs[4][0].peak_bytes < 0.6 * costs[4][1].peak_bytes
    for again, plain in zip(costs[4][0].layers, costs[4][1].layers, strict=True):
        is_of_block = again.name.startswith("block") and "final" not in again.name
        assert again.num_forward == 1 + is_of_block and plain.num_forward == 1
