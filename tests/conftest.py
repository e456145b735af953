"""Set-up of all tests: two logical CPU devices, TensorFlow quiet, a tiny data set."""

import gc
import os
import shutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the commands do

import av
import pytest
import scheduling
import tensorflow as tf

scheduling.refuse_real_time()
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration(), tf.config.LogicalDeviceConfiguration()],
)


# What was imported lives as long as the process, and tracing makes objects by the
# hundred thousand that live as long as their graph: with Python's own thresholds, going
# through them takes an eighth of a tiny pretraining's time.
gc.collect()
gc.freeze()
gc.set_threshold(100_000, 50, 100)


@pytest.fixture(scope="session")
def two_devices():
    """The strategy of two devices, one for all tests of a process.

    A second one would number its reductions from the start again, and TensorFlow would
    take them for those of the first.
    """
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(scope="session")
def tiny_records(tmp_path_factory):
    """Directories "train" and "test" of records of the embedded benchmark.

    24 and 12 videos of 1.5 s, 8 frames per second, 32 x 32 pixels, in 3 and 2 shards.
    """
    from data_prep import synthetic

    root = tmp_path_factory.mktemp("tiny")
    for seed, (name, num_videos) in enumerate({"train": 24, "test": 12}.items()):
        manifest = synthetic.make_benchmark(
            str(root / f"{name}_videos"),
            num_videos=num_videos,
            seed=seed,
            duration_secs=1.5,
            size=32,
        )
        _convert(manifest, root / name)
    return root


@pytest.fixture(scope="session")
def waveform_records(tiny_records, tmp_path_factory):
    """A directory with "train", the videos of tiny_records' "test" with waveforms."""
    root = tmp_path_factory.mktemp("waveform")
    manifest = str(tiny_records / "test_videos" / "manifest.csv")
    _convert(manifest, root / "train", store_waveform=True)
    return root


def _convert(manifest, out, *, store_waveform=False):
    from data_prep import conversion, conversion_settings
    from data_prep.worker_processes import PoolSettings
    from xdc_tf.data.log_mel import LogMelSettings

    settings = conversion_settings.ConversionSettings(
        fps=8.0,
        short_side=32,
        jpeg_quality=90,
        min_secs=0.5,
        max_secs=60.0,
        store_waveform=store_waveform,
        log_mel=LogMelSettings(),
    )
    conversion.convert_manifest(
        manifest, str(out), settings=settings, pool=PoolSettings(2), rows_per_shard=8
    )


@pytest.fixture(scope="session")
def odd_videos(tiny_records, tmp_path_factory):
    """A folder of four rows: broken.mp4, mute.mp4, "sub folder/one video.mp4", two.mov.

    The last two are the first two training videos; the mute one is the picture of the
    third.
    """
    videos = sorted((tiny_records / "train_videos" / "videos").iterdir())
    folder = tmp_path_factory.mktemp("odd") / "odd videos"
    (folder / "sub folder").mkdir(parents=True)
    shutil.copyfile(videos[0], folder / "sub folder" / "one video.mp4")
    shutil.copyfile(videos[1], folder / "two.mov")
    (folder / "broken.mp4").write_bytes(videos[0].read_bytes()[:700])
    with (
        av.open(str(videos[2])) as source,
        av.open(str(folder / "mute.mp4"), "w") as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return folder


@pytest.fixture(scope="session")
def imported_run(tmp_path_factory):
    """Work directory of random weights of a narrow R(2+1)D-4; half-second clips."""
    from xdc_tf.models import video_resnet
    from xdc_tf.weights import layouts, torch_files
    from xdc_tf.weights.import_weights import import_weights

    folder = tmp_path_factory.mktemp("imported")
    encoder = video_resnet.build("r2plus1d", depth=4, width=0.5)
    torch_files.write(str(folder / "weights.pth"), layouts.state_dict(encoder))
    import_weights(
        str(folder / "weights.pth"),
        str(folder / "run"),
        clip={"num_frames": 4, "fps": 8.0, "crop_size": 28},
    )
    return folder / "run"


@pytest.fixture(scope="session")
def s3():
    """A bucket named "records"; yields the environment that finds its server."""
    import boto3
    from moto import server as moto_server

    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    boto3.client(
        "s3",
        region_name="us-east-1",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
    ).create_bucket(Bucket="records")
    yield {
        **keys,
        "AWS_REGION": "us-east-1",
        "S3_ENDPOINT": f"http://{host}:{port}",
    }
    server.stop()


@pytest.fixture
def tiny_config():
    """See make_tiny_config."""
    return make_tiny_config()


@pytest.fixture(scope="session")
def new_tiny_config():
    """The function make_tiny_config, for fixtures that outlive a test."""
    return make_tiny_config


@pytest.fixture(scope="session")
def tiny_run(tiny_records, tmp_path_factory):
    """Work directory of a finished run of make_tiny_config on tiny_records' "train"."""
    from xdc_tf.training.pretrain import pretrain

    workdir = tmp_path_factory.mktemp("tiny_run") / "run"
    pretrain(
        make_tiny_config(),
        workdir=str(workdir),
        records_dir=str(tiny_records / "train"),
        strategy=tf.distribute.OneDeviceStrategy("/CPU:0"),
    )
    return workdir


def make_tiny_config():
    """The configuration of a run on tiny_records that takes seconds: 2 rounds.

    Criteria, a sixth of its time, are measured where a test asks for them; so are the
    statistics of clips that first clusters are of by default.
    """
    from configs import synthetic

    config = synthetic.get_config()
    config.num_rounds = 2
    config.clip.num_frames = 4
    config.clip.crop_size = 16
    config.clip.audio_secs = 0.5
    config.video_encoder.depth = config.audio_encoder.depth = 4
    config.video_encoder.width = config.audio_encoder.width = 0.5
    config.kmeans.num_clusters = 4
    config.kmeans.num_restarts = 1
    config.criteria.max_examples = 0
    config.labels.first_features = "encoders"
    config.features.batch_size = 8
    config.features.batch_norm_batches = 2
    config.training.batch_size = 4
    config.training.epochs_per_round = 1
    config.training.held_out_share = 0.2
    config.optimizer.warmup_steps = 2
    config.checkpoint_every_steps = 3
    config.log_every_steps = 2
    return config.to_dict()
