import keras
import numpy as np
import pytest
import tensorflow as tf
from clip_settings import clip_of

from xdc_tf.models import encoder_table, two_stream
from xdc_tf.models.encoder_table import ResNetSettings
from xdc_tf.models.layers import LayerSettings
from xdc_tf.models.two_stream import HeadSettings
from xdc_tf.runtime import compat

ARCHITECTURES = {
    "video": ResNetSettings("r2plus1d", 10, 1 / 16),
    "audio": ResNetSettings("resnet", 10, 1 / 8),
}
TWO_MODALITIES = {"video": "video", "audio": "audio"}


def build(streams=None, *, heads=None, **layers):
    streams = streams or TWO_MODALITIES
    if heads is None:
        heads = {f"{stream}_head": HeadSettings(stream, 200) for stream in streams}
    return two_stream.build(
        streams,
        architectures=ARCHITECTURES,
        clip=clip_of(),
        layers=LayerSettings(**layers),
        heads=heads,
    )


@pytest.fixture(scope="module")
def model():
    """Encoders and heads whose encoders tests leave as they are."""
    return build(weight_decay=0.1)


def arrays(variables):
    return [variable.numpy().copy() for variable in variables]


def test_each_stream_has_an_encoder_of_its_modality_and_architecture(model):
    assert list(model.encoders) == ["video", "audio"]
    assert [encoder.name for encoder in model.encoders.values()] == [
        "video_encoder",
        "audio_encoder",
    ]
    assert len(model.encoders["video"].input_shape) == 5
    assert len(model.encoders["audio"].input_shape) == 4
    assert model.encoders["video"].output_shape == (None, 32)
    assert model.encoders["audio"].output_shape == (None, 64)


def test_a_head_is_as_wide_as_its_streams_features():
    model = build(
        heads={
            "one": HeadSettings("video", 5),
            "two": HeadSettings("audio", 7),
            "three": HeadSettings("audio", 7),
        }
    )
    shapes = {name: tuple(head.kernel.shape) for name, head in model.heads.items()}
    assert shapes == {"one": (32, 5), "two": (64, 7), "three": (64, 7)}


def test_heads_start_from_a_deviation_of_one_hundredth_and_zero_biases():
    for head in build().heads.values():
        kernel = head.kernel.numpy()  # 6,400 weights or more
        assert kernel.std() == pytest.approx(0.01, rel=0.05)
        assert kernel.mean() == pytest.approx(0.0, abs=5e-4)
        assert not head.bias.numpy().any()


def test_resetting_heads_gives_new_weights_to_the_same_variables(model):
    kept = [variable for head in model.heads.values() for variable in head.variables]
    for head in model.heads.values():
        head.bias.assign(tf.ones(head.bias.shape))
    before = arrays(kept)
    encoder_weights = arrays(model.encoders["audio"].variables)
    two_stream.reset_heads(model, seed=5)
    now = [variable for head in model.heads.values() for variable in head.variables]
    assert all(one is other for one, other in zip(kept, now, strict=True))
    for old, new in zip(before, arrays(now), strict=True):
        assert not np.array_equal(old, new)
    for head in model.heads.values():
        assert head.kernel.numpy().std() == pytest.approx(0.01, rel=0.05)
        assert not head.bias.numpy().any()
    for old, new in zip(
        encoder_weights, arrays(model.encoders["audio"].variables), strict=True
    ):
        np.testing.assert_array_equal(old, new)


def test_new_heads_follow_from_the_seed_and_differ_from_each_other():
    model = build(heads={name: HeadSettings("video", 9) for name in ("one", "two")})

    def kernels(seed):
        two_stream.reset_heads(model, seed=seed)
        return [head.kernel.numpy() for head in model.heads.values()]

    first, again, other = kernels(2**31 - 1), kernels(2**31 - 1), kernels(1)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


def test_two_streams_of_one_modality_start_from_different_weights():
    model = build({"audio": "audio", "audio2": "audio"})
    one, other = (
        model.encoders[stream].get_layer("stem_conv").kernel.numpy()
        for stream in ("audio", "audio2")
    )
    assert one.shape == other.shape
    assert not np.array_equal(one, other)


def test_the_trainable_variables_are_those_of_encoders_and_heads_in_order(model):
    parts = [*model.encoders.values(), *model.heads.values()]
    wanted = [id(variable) for part in parts for variable in part.trainable_variables]
    assert [id(variable) for variable in model.trainable_variables] == wanted
    assert len(set(wanted)) == len(wanted)


def test_penalties_cover_the_kernels_of_encoders_and_heads(model):
    kernels = [
        variable.numpy().astype(np.float64)
        for variable in model.trainable_variables
        if len(variable.shape) > 1
    ]
    wanted = 0.05 * sum(np.sum(np.square(kernel)) for kernel in kernels)
    assert float(tf.add_n(model.penalties)) == pytest.approx(wanted, rel=1e-5)


def test_without_weight_decay_there_are_no_penalties():
    assert build().penalties == []


def test_heads_compute_in_float32_under_mixed_precision():
    model = build(dtype="mixed_bfloat16")
    features = model.encoders["audio"](np.ones((2, 20, 40, 1), np.float32))
    logits = model.heads["audio_head"](features)
    assert tf.as_dtype(features.dtype) == tf.as_dtype(logits.dtype) == tf.float32


def portable(encoder, modality, layers):
    copy = encoder_table.build(ARCHITECTURES[modality], layers, encoder.name, clip_of())
    copy.set_weights(encoder.get_weights())
    return copy


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_a_portable_encoder_computes_the_same_features(modality):
    shape = {"video": (2, 4, 16, 16, 3), "audio": (2, 20, 40, 1)}[modality]
    inputs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    encoder = build(seed=3, synchronized_batch_norm=True).encoders[modality]
    for _ in range(3):
        encoder(inputs, training=True)  # moves the statistics of batch norm
    copy = portable(encoder, modality, LayerSettings(weight_decay=1e-3))
    # Keras 2 computes synchronised and local batch norm in another order.
    np.testing.assert_allclose(
        copy(inputs, training=False),
        encoder(inputs, training=False),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_portable_encoder_of_a_mixed_one_is_float32_with_the_same_weights():
    encoder = build(dtype="mixed_bfloat16").encoders["audio"]
    copy = portable(encoder, "audio", LayerSettings())
    assert copy.get_layer("stem_conv").compute_dtype == "float32"
    for old, new in zip(encoder.get_weights(), copy.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_averaged_statistics_are_the_mean_over_replicas_on_each_of_them(two_devices):
    strategy = two_devices
    with strategy.scope():
        norm = keras.layers.BatchNormalization(momentum=0.0)
        encoder = keras.Sequential([keras.Input((1,)), norm])

    def replica_step():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        # 0 and 2 on the first replica, 10 and 16 on the second.
        values = tf.gather(tf.constant([[[0.0], [2.0]], [[10.0], [16.0]]]), replica)
        encoder(values, training=True)

    @tf.function
    def step():
        strategy.run(replica_step)
        two_stream.average_statistics([encoder], strategy)

    step()
    means, variances = (
        strategy.experimental_local_results(variable)
        for variable in compat.tf_variables(encoder.non_trainable_variables)
    )
    # Means 1 and 13, variances 1 and 9.
    assert [float(mean[0]) for mean in means] == [7.0, 7.0]
    assert [float(variance[0]) for variance in variances] == [5.0, 5.0]
