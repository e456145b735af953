"""Video files of all kinds, and a work directory of imported weights."""

import shutil

import av
import pytest

from xdc_tf.evaluation import encoder_sources, labelled_records
from xdc_tf.models import video_resnet
from xdc_tf.weights import layouts, torch_files
from xdc_tf.weights.import_weights import import_weights


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
def source(tiny_run):
    """The trained encoders of tiny_run."""
    return encoder_sources.open_source(str(tiny_run))


@pytest.fixture(scope="session")
def split(source, tiny_records):
    """The videos of tiny_records, to learn from and to be tested on."""
    (opened,) = labelled_records.open_splits(
        [str(tiny_records / "train")],
        [str(tiny_records / "test")],
        run=source.run,
        modalities=("video", "audio"),
    )
    return opened
