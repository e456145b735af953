"""Times, memory and storage of runs, by hand."""

import math

import pytest
import tensorflow as tf

from data_prep.conversion_settings import ConversionSettings
from xdc_tf.data import payloads
from xdc_tf.labels.pseudo_labels import KMeansSettings
from xdc_tf.planning import device_table, needs, plan, recordings, times
from xdc_tf.planning.device_table import Device
from xdc_tf.planning.operations import EncoderCost, LayerCost
from xdc_tf.planning.recordings import Recordings
from xdc_tf.planning.run_size import ClusteringSize, RunSize
from xdc_tf.planning.times import Cluster, Efficiency
from xdc_tf.training import configuration

pytestmark = pytest.mark.once

DEVICE = Device("ours", {"float32": 1e9, "bfloat16": 4e9}, 1e8, 2**34, 1e7, "a test")
EFFICIENCY = Efficiency(training=0.5, extraction=0.25, kmeans=0.1)


def _layer(name, *, flops=0, num_bytes=0):
    return LayerCost(name, flops, num_bytes, 2 * num_bytes, 3 * num_bytes, 0)


# One layer that its operations bound, and one that its bytes do.
ENCODER = EncoderCost(
    layers=(_layer("conv", flops=10**6, num_bytes=1), _layer("norm", num_bytes=10**5)),
    num_parameters=1100,
    num_trainable=1000,
    width=8,
    input_bytes=100,
    kept_bytes=1000,
    peak_bytes=1500,
    inference_peak_bytes=300,
)


def _cluster(num_devices=1, *, devices_per_machine=8, storage=1e12, network=1e9):
    return Cluster(DEVICE, num_devices, devices_per_machine, storage, network)


def _size(**changes):
    """1,000 videos, 3 rounds of 10 epochs of 9 steps of 100; two streams alike."""
    size = RunSize(
        num_videos=1000,
        num_trained=900,
        num_extracted=(1000, 1000, 1000, 1000),
        clips_per_video=2,
        clip_frames=4,
        matmul_dtype="float32",
        encoders={"video": ENCODER, "audio": ENCODER},
        folded={"video": ENCODER, "audio": ENCODER},
        num_head_weights=36,
        slots_per_weight=1,
        batch_size=100,
        accumulate_steps=1,
        features_batch_size=50,
        steps_per_round=90,
        epochs_per_round=10,
        num_rounds=3,
        num_label_tables=2,
        feature_bytes=2,
        kmeans=KMeansSettings(num_clusters=4, num_iterations=20),
        clusterings=(
            ClusteringSize("video", 8, 8, from_files=False),
            ClusteringSize("audio", 8, 8, from_files=False),
        ),
    )
    return size._replace(**changes)


def _parts(size, cluster, *, bytes_per_clip=1000.0):
    found = times.parts(size, cluster, EFFICIENCY, bytes_per_clip=bytes_per_clip)
    return {part.name: part for part in found}


def test_a_layer_takes_its_operations_or_its_bytes_whichever_is_longer():
    # conv: 5 clips x 1e6 operations at 1e9; norm: 5 x 1e5 bytes at 1e8.
    secs = times.forward_secs(ENCODER, 5, flops=1e9, bytes_per_sec=1e8)
    assert secs == pytest.approx(5e-3 + 5e-3)


def test_a_training_step_is_three_forward_passes_where_operations_bound_it():
    encoder = ENCODER._replace(layers=ENCODER.layers[:1])
    secs = times.gradient_secs(encoder, 5, flops=1e9, bytes_per_sec=1e8)
    assert secs == pytest.approx(3 * 5e-3)


def test_a_step_has_both_encoders_the_update_and_no_exchange_on_one_device():
    # Each: conv 3 x 100 x 1e6 at 0.5e9, norm (2 + 3) x 100 x 1e5 bytes at 1e8.
    encoders = 2 * (0.6 + 0.5)
    update = 4 * (2 * 1000 + 36) * 5 / 1e8
    assert times.step_secs(_size(), _cluster(), EFFICIENCY) == pytest.approx(
        encoders + update
    )


def test_gradients_go_twice_over_the_slowest_link():
    # Four devices in two machines: 2 x 3/4 of the bytes at the network's rate.
    cluster = _cluster(4, devices_per_machine=2, network=1e6)
    assert times.exchange_secs(cluster, 10**6) == pytest.approx(1.5)
    assert times.exchange_secs(_cluster(4), 10**6) == pytest.approx(0.15)


def test_kmeans_takes_two_n_d_k_for_each_iteration_and_the_labels():
    # Bytes: 22 passes over 1,000 x 8 x 4 at 1e8 are shorter.
    by_devices, by_storage = times.kmeans_secs(_size(), _cluster(), EFFICIENCY)
    one = 2 * 1000 * 8 * 4 * 21 / 1e9 / 0.1
    assert by_devices == pytest.approx(2 * max(one, 22 * 32000 / 1e8))
    assert by_storage == pytest.approx(2 * 16000 / 1e12)


def test_kmeans_is_shared_by_the_devices_and_multiplied_by_heads_and_restarts():
    kmeans = KMeansSettings(
        num_clusters=4000, num_iterations=20, num_heads=2, num_restarts=3
    )
    secs, _ = times.kmeans_secs(_size(kmeans=kmeans), _cluster(4), EFFICIENCY)
    one = 2 * 1000 * 8 * 4000 * 21 / 1e9 / 0.1
    assert secs == pytest.approx(2 * 6 * one / 4)


def test_kmeans_of_heads_of_several_numbers_of_clusters_takes_their_sum():
    apart = KMeansSettings(num_iterations=20, head_clusters=(1000, 3000))
    together = KMeansSettings(num_clusters=4000, num_iterations=20)
    secs = [
        times.kmeans_secs(_size(kmeans=kmeans), _cluster(), EFFICIENCY)
        for kmeans in (apart, together)
    ]
    assert secs[0] == pytest.approx(secs[1])


def test_mixed_kmeans_labels_in_float32():
    kmeans = KMeansSettings(num_clusters=4000, num_iterations=20, precision="mixed")
    secs, _ = times.kmeans_secs(_size(kmeans=kmeans), _cluster(), EFFICIENCY)
    product = 2 * 1000 * 8 * 4000 / 1e9 / 0.1
    assert secs == pytest.approx(2 * product * (20 / 4 + 1))


def test_features_in_files_are_read_in_every_pass():
    clustering = ClusteringSize("video", 8, 8, from_files=True)
    size = _size(clusterings=(clustering,))
    part = _parts(size, _cluster(storage=1e4))[times.CLUSTERING]
    # 20 iterations, the checks before and the labels after; 3 rounds and the last one.
    assert part.secs_per_round == pytest.approx(22 * 16000 / 1e4)
    assert part.total_secs == pytest.approx(4 * part.secs_per_round)
    assert part.bound == "storage"


def test_extraction_has_all_clips_of_all_videos_before_each_round_and_at_the_end():
    part = _parts(_size(), _cluster())[times.EXTRACTION]
    # A clip: two streams of 1e6 operations at 0.25e9 and 1e5 bytes at 1e8.
    per_clip = 2 * (4e-3 + 1e-3)
    assert part.total_secs == pytest.approx(4 * 1000 * 2 * per_clip)
    assert part.clips_per_sec == pytest.approx(1 / per_clip)
    assert part.bytes_per_sec == pytest.approx(1000 / per_clip)


def test_training_has_all_steps_of_all_rounds():
    part = _parts(_size(), _cluster())[times.TRAINING]
    step = times.step_secs(_size(), _cluster(), EFFICIENCY)
    assert part.total_secs == pytest.approx(3 * 90 * step)
    assert part.secs_per_round == pytest.approx(90 * step)
    assert part.clips_per_sec == pytest.approx(100 / step)


def test_a_part_takes_as_long_as_reading_its_clips_where_storage_is_slow():
    part = _parts(_size(), _cluster(storage=1e3))[times.TRAINING]
    assert part.bound == "storage"
    # 90 batches of 100 clips of 1000 bytes in each of 3 rounds.
    assert part.total_secs == pytest.approx(3 * 9000 * 1.0)


def test_a_pass_over_the_held_out_videos_reads_theirs_alone():
    part = _parts(_size(), _cluster(storage=1e3))[times.HELD_OUT]
    assert part.secs_per_round == pytest.approx(10 * 100)


def test_machines_read_side_by_side():
    slow = _parts(_size(), _cluster(storage=1e3))[times.TRAINING]
    two = _parts(_size(), _cluster(2, devices_per_machine=1, storage=1e3))
    assert two[times.TRAINING].total_secs == pytest.approx(slow.total_secs / 2)


def test_memory_of_a_device_by_hand():
    memory = needs.memory(_size(), _cluster(2))
    # In training and to be saved with the heads, and folded.
    assert memory.weights == 4 * (2 * (2200 + 36) + 2200)
    assert memory.gradients == memory.optimizer == 4 * 2036
    assert memory.label_tables == 4 * 1000 * 2
    # 50 clips; both streams keep theirs, and gradients are of one.
    assert memory.activations == 50 * (1000 + 1000 + 500)
    assert memory.batches == 50 * 2 * 200
    assert memory.extraction == 25 * (300 + 2 * 200)
    assert memory.kmeans_rows == 4 * 1000 * 8 // 2
    assert memory.total_bytes == (
        memory.weights
        + memory.optimizer
        + memory.label_tables
        + needs.RESERVE_BYTES
        + memory.gradients
        + memory.activations
        + memory.batches
    )


def test_a_batch_in_parts_has_the_activations_of_one_and_gradients_twice():
    memory = needs.memory(_size(accumulate_steps=5), _cluster(2))
    assert memory.activations == 10 * (1000 + 1000 + 500)
    assert memory.gradients == 2 * 4 * 2036
    assert memory.batches == 50 * 2 * 200


@pytest.mark.parametrize("accumulate_steps", [1, 3])
def test_the_largest_batch_just_fits(accumulate_steps):
    size, cluster = _size(accumulate_steps=accumulate_steps), _cluster(2)
    usable = needs.RESERVE_BYTES + 10**6
    largest = needs.largest_batch(size, cluster, usable_bytes=usable)

    def needed(per_device):
        grown = size._replace(batch_size=2 * per_device)
        return needs.memory(grown, cluster).total_bytes

    assert needed(largest) <= usable < needed(largest + accumulate_steps)


def test_storage_by_hand():
    found = needs.storage(_size(), bytes_per_video=50.0)
    assert found.records == 50_000
    assert found.features == 1000 * (2 * 16 + 1)
    # "1000," a video id, ",3" twice and the end of the line; 2 int32; 4 tables.
    line = 5 + needs.VIDEO_ID_BYTES + 4 + 1
    assert found.label_tables == 4 * 1000 * (8 + line)
    one = 4 * (2200 + 36 + 2036 + 2000)
    assert found.checkpoints == 3 * one + 2 * 4 * 2200


@pytest.fixture(scope="module")
def tiny_plan(new_tiny_config):
    return _tiny_plan(new_tiny_config())


def _tiny_plan(config, *, num_devices=2, **changes):
    arguments = {
        "num_videos": 100,
        "cluster": _cluster(num_devices),
        "recordings": Recordings(1e4, 1e3, 1e3, 4, "a test"),
        "efficiency": EFFICIENCY,
        "decoded_pixels_per_sec": 1e6,
        "price_per_device_hour": 3.0,
    }
    config = configuration.from_mapping(config)
    return plan.make(config, **arguments | changes)


def test_a_plan_counts_the_configuration(tiny_plan):
    size = tiny_plan.size
    # 20 of 100 held out; batches of 4; one epoch; 32 features; 4 clusters.
    assert (size.num_trained, size.steps_per_round) == (80, 20)
    assert size.num_extracted == (100, 100, 100)
    assert size.num_head_weights == 2 * (32 + 1) * 4
    assert size.slots_per_weight == 1
    assert [c.source for c in size.clusterings] == ["audio", "video"]


def test_hours_and_cost_are_of_all_devices(tiny_plan):
    secs = sum(part.total_secs for part in tiny_plan.parts)
    assert tiny_plan.device_hours == pytest.approx(2 * secs / 3600)
    assert tiny_plan.cost == pytest.approx(3 * tiny_plan.device_hours)


def test_cores_decode_the_frames_that_devices_take(tiny_plan):
    for part in tiny_plan.parts:
        # 4 frames of 1,000 pixels a clip, 1e6 pixels a second.
        assert tiny_plan.decoding_cores[part.name] == pytest.approx(
            part.clips_per_sec * 4e-3
        )


def test_json_has_all_figures_and_text_their_parts(tiny_plan):
    told = plan.as_json(tiny_plan)
    assert told["memory_bytes_per_device"]["total"] == tiny_plan.memory.total_bytes
    assert {part["name"] for part in told["parts"]} == {
        "extraction",
        "k-means",
        "training",
        "held-out",
    }
    assert set(told["storage_bytes"]) == set(needs.Storage._fields)
    text = plan.as_text(tiny_plan)
    for name in ("activations", "label tables", "k-means", "Assumed:", "cost: "):
        assert name in text


def test_harvested_rounds_extract_what_training_does_not_see(tiny_config):
    tiny_config["features"]["source"] = "training"
    tiny_config["training"]["max_steps_per_epoch"] = 5
    # 80 trained, of which 5 steps of 4 see 20; held-out ones are measured anyway.
    assert _tiny_plan(tiny_config).size.num_extracted == (100, 60, 100)


def test_statistics_of_the_clips_take_another_pass(tiny_config):
    tiny_config["labels"]["first_features"] = "statistics"
    assert _tiny_plan(tiny_config).size.num_extracted == (200, 100, 100)


def test_supervised_training_clusters_nothing(tiny_config):
    tiny_config["method"] = "supervised"
    found = _tiny_plan(tiny_config, num_classes=7)
    assert [part.name for part in found.parts] == ["training", "held-out"]
    assert found.size.num_head_weights == 2 * (32 + 1) * 7
    assert found.storage.features == found.storage.label_tables == 0


def test_a_batch_that_does_not_fit_is_warned_of_with_one_that_does(tiny_config):
    tiny_config["training"]["batch_size"] = 64
    # 8 MB above the reserve, where a clip takes some 0.2 MB.
    usable = needs.RESERVE_BYTES + 8e6
    small = DEVICE._replace(memory_bytes=usable / plan.USABLE_FRACTION)
    found = _tiny_plan(tiny_config, cluster=_cluster(1)._replace(device=small))
    assert 0 < found.largest_batch < 64
    assert f"config.training.batch_size={found.largest_batch}," in found.warnings[0]


def test_slow_storage_is_warned_of(tiny_config):
    found = _tiny_plan(tiny_config, cluster=_cluster(2, storage=1e3))
    assert any("training waits for storage" in line for line in found.warnings)


def test_narrow_encoders_are_warned_of(tiny_plan):
    assert [line for line in tiny_plan.warnings if "has 32 features" in line]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_videos": 0}, "num_videos=0"),
        ({"num_videos": 4}, "num_videos=4 leaves 3 .*config.training.batch_size=4"),
        ({"num_devices": 3}, "training.batch_size=4 .* 3 devices; set it to 6"),
        ({"num_devices": 0}, "gpus=0"),
    ],
)
def test_what_does_not_fit_is_refused(tiny_config, changes, message):
    with pytest.raises(ValueError, match=message):
        _tiny_plan(tiny_config, **changes)


@pytest.mark.parametrize("texts", [["0"], ["1.1"], ["a"], ["0.5", "0.5"], []])
def test_efficiency_is_one_share_or_three(texts):
    with pytest.raises(ValueError, match="--efficiency="):
        times.parse_efficiency(texts)


def test_one_efficiency_is_that_of_all_parts():
    assert times.parse_efficiency(["0.5"]) == (0.5, 0.5, 0.5)
    assert times.parse_efficiency(["0.1", "0.2", "0.3"]) == (0.1, 0.2, 0.3)


def test_gpus_have_other_efficiencies_than_this_machines_cpu(monkeypatch):
    h200 = device_table.find("h200")
    assert times.default_efficiency(h200) == times.GPU_EFFICIENCY
    this = h200._replace(name=device_table.THIS)
    assert times.default_efficiency(this) == times.CPU_EFFICIENCY
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    assert times.default_efficiency(this) == times.GPU_EFFICIENCY


def test_assumed_recordings_by_hand(tiny_config):
    found = recordings.assumed(
        configuration.from_mapping(tiny_config),
        video_secs=10,
        frames_per_sec=30,
        short_side=256,
        video=payloads.stored(ConversionSettings(), payloads.VIDEO),
        bytes_per_pixel=0.2,
    )
    # 300 frames of 256 x 455.1; 500 rows of 40 float32.
    assert found.frame_pixels == pytest.approx(256 * 455.11, rel=1e-4)
    assert found.bytes_per_video == pytest.approx(
        300 * 0.2 * found.frame_pixels + 500 * 40 * 4
    )
    # 4 frames, each 3.75 after the other; 0.5 s of sound.
    assert found.bytes_per_clip == pytest.approx(
        12.25 * 0.2 * found.frame_pixels + 25 * 40 * 4
    )


def test_segments_of_frames_are_read_whole_and_decoded_from_their_first(tiny_config):
    described = ConversionSettings(payloads=payloads.parse(["h264:gop=9,crf=25"]))
    found = recordings.assumed(
        configuration.from_mapping(tiny_config),
        video_secs=10,
        frames_per_sec=30,
        short_side=256,
        video=payloads.stored(described, payloads.VIDEO),
    )
    # 0.036 bytes per pixel at crf 18, of which 5.7 more halve; key frames take more.
    frame_bytes = 0.036 / 2 ** (7 / 5.7) * (1 + 4.3 / 9) * found.frame_pixels
    assert found.bytes_per_video == pytest.approx(300 * frame_bytes + 500 * 40 * 4)
    # 12.25 frames from the first to the last, which begin anywhere among nine.
    assert found.decoded_frames == 12.25 + 4
    assert found.bytes_per_clip == pytest.approx(
        (12.25 + 8) * frame_bytes + 25 * 40 * 4
    )
    assert "as h264" in found.source


def test_measured_recordings_are_the_sizes_of_their_files(tiny_config, tiny_records):
    from xdc_tf.data import dataset_info

    directory = tiny_records / "train"
    info = dataset_info.read_dataset_info(str(directory))
    found = recordings.measured(
        configuration.from_mapping(tiny_config), str(directory), info
    )
    sizes = [path.stat().st_size for path in directory.glob("*.tfrecord")]
    assert found.bytes_per_video == pytest.approx(math.fsum(sizes) / 24)
    # Its clips are shorter than its videos of 12 frames.
    assert 0 < found.bytes_per_clip < found.bytes_per_video
