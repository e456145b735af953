"""Encoders to be evaluated: of runs, exports, imported weights, and random ones."""

import json

import numpy as np
import pytest

from xdc_tf.data import dataset_info
from xdc_tf.evaluation import encoder_sources
from xdc_tf.export import export_run
from xdc_tf.runtime import files, workdir
from xdc_tf.training import trained_run


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    """An export of tiny_run."""
    out = tmp_path_factory.mktemp("exported") / "export"
    export_run.export(str(tiny_run), str(out))
    return out


@pytest.fixture
def scratch(tiny_run, tiny_records):
    """The function from a seed to the source of random encoders."""
    info = dataset_info.read_dataset_info(str(tiny_records / "train"))
    config = workdir.read_config(str(tiny_run))

    def scratch(seed, **changes):
        return encoder_sources.scratch_source(
            config | {"seed": seed}, info._replace(**changes)
        )

    return scratch


def _weights(source, stream="video"):
    return encoder_sources.load_encoder(source, stream).get_weights()


def _same(ones, others):
    return all(map(np.array_equal, ones, others))


def test_a_run_gives_its_encoders(tiny_run):
    source = encoder_sources.open_source(str(tiny_run))
    assert (source.kind, source.method, source.seed) == ("pretrained", "xdc", 0)
    encoders = trained_run.load_encoders(source.run)
    for stream, encoder in encoders.items():
        assert _same(_weights(source, stream), encoder.get_weights())


def test_a_run_gives_the_encoders_that_it_started_from(tiny_run):
    source = encoder_sources.open_source(str(tiny_run), initial=True)
    assert (source.kind, source.method, source.seed) == ("initial", "initial", 0)
    encoders = trained_run.load_encoders(source.run, initial=True)
    assert _same(_weights(source), encoders["video"].get_weights())
    trained = encoder_sources.open_source(str(tiny_run))
    assert not _same(_weights(source), _weights(trained))


@pytest.mark.slow
def test_an_export_is_as_good_as_its_run(exported, tiny_run):
    source = encoder_sources.open_source(str(exported))
    of_run = encoder_sources.open_source(str(tiny_run))
    assert (source.kind, source.method, source.seed) == ("pretrained", "xdc", 0)
    for name in ("streams", "architectures", "audio", "batch_size", "modalities"):
        assert getattr(source.run, name) == getattr(of_run.run, name)
    assert source.run.clip == of_run.run.clip
    for stream in ("video", "audio"):
        assert _same(_weights(source, stream), _weights(of_run, stream))


def test_imported_weights_are_a_source(imported_run):
    source = encoder_sources.open_source(str(imported_run))
    assert (source.kind, source.method, source.seed) == ("pretrained", "imported", 0)
    encoder = encoder_sources.load_encoder(source, "video")
    assert encoder.output_shape[-1] == 32


def test_an_export_of_imported_weights_is_a_source(imported_run, tmp_path):
    export_run.export(str(imported_run), str(tmp_path / "export"))
    source = encoder_sources.open_source(str(tmp_path / "export"))
    assert source.method == "imported"
    assert _same(
        _weights(source), _weights(encoder_sources.open_source(str(imported_run)))
    )


def test_random_encoders_follow_from_their_seed(scratch):
    assert _same(_weights(scratch(1)), _weights(scratch(1)))
    assert not _same(_weights(scratch(1)), _weights(scratch(2)))
    source = scratch(2)
    assert (source.kind, source.method, source.seed) == ("scratch", "scratch", 2)
    assert encoder_sources.encoder_path(source, "video") == ""


def test_random_encoders_have_the_forms_of_the_run(scratch, tiny_run):
    source = scratch(1)
    of_run = encoder_sources.open_source(str(tiny_run))
    assert source.run.streams == {"video": "video", "audio": "audio"}
    for stream in ("video", "audio"):
        shapes = [
            [weight.shape for weight in _weights(one, stream)]
            for one in (source, of_run)
        ]
        assert shapes[0] == shapes[1]
    first, second = (_weights(source, stream)[0] for stream in ("video", "audio"))
    assert not np.array_equal(first.ravel()[:8], second.ravel()[:8])


def test_random_encoders_begin_where_a_run_of_their_seed_begins(scratch, tiny_run):
    ours = encoder_sources.load_encoder(scratch(0), "audio").trainable_weights
    source = encoder_sources.open_source(str(tiny_run), initial=True)
    theirs = encoder_sources.load_encoder(source, "audio").trainable_weights
    assert _same([w.numpy() for w in ours], [w.numpy() for w in theirs])


def test_there_is_a_random_encoder_for_each_modality_of_the_records(scratch):
    assert scratch(1, modalities=("audio",)).run.streams == {"audio": "audio"}


def test_a_description_has_the_hash_of_the_encoder(tiny_run, scratch):
    source = encoder_sources.open_source(str(tiny_run))
    path = workdir.encoder_file(str(tiny_run), "audio")
    assert encoder_sources.describe(source, "audio") == {
        "kind": "pretrained",
        "method": "xdc",
        "seed": 0,
        "directory": str(tiny_run),
        "encoder_sha256": files.sha256(path),
    }
    told = encoder_sources.describe(scratch(4), "video")
    assert (told["directory"], told["encoder_sha256"]) == ("", None)
    assert json.loads(json.dumps(told)) == told


def test_a_directory_that_is_nothing_is_told(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="nothing holds neither a run nor an export"
    ):
        encoder_sources.open_source(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "{", '{"encoders": {}}', '{"encoders": [], "config": {}}'),
        *('{"encoders": {}, "config": {}}', "[" * 100_000),
    ],
)
def test_a_card_that_cannot_be_read_is_named(tmp_path, text):
    (tmp_path / "export.json").write_text(text)
    with pytest.raises(ValueError, match="export.json.*(export again|[Rr]estore the)"):
        encoder_sources.open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("method", ["xdc"], r"config.method=\['xdc'\] must be one of"),
        ("method", "none", "config.method='none' must be one of"),
        ("video_encoder.width", 1e9, r"video_encoder.width=1000000000.0 must be"),
        ("video_encoder.width", "3", r"video_encoder.width='3' must be a number"),
        ("video_encoder.depth", 10**9, "video_encoder.depth=1000000000 must be one of"),
        ("video_encoder.architecture", {}, "architecture={} must be one of"),
        ("clip.num_frames", 10**9, "clip.num_frames=1000000000 must be a whole number"),
        ("clip.crop_size", True, "clip.crop_size=True must be"),
        ("clip.fps", float("nan"), "NaN is no JSON number"),
        ("clip.video_std", [1, 0, 1], "clip.video_std"),
        ("clip.video_mean", ["0", 0, 0], "clip.video_mean=.*must be a list of 3"),
        ("log_mel.num_filters", 10**7, "log_mel.num_filters=10000000 must be"),
        ("log_mel.further", 1, "config.log_mel.further is no key"),
        ("optimizer.name", "../../x", "config.optimizer.name='../../x' must be one of"),
        ("batch_norm_momentum", 1.5, "batch_norm_momentum=1.5 must be"),
        ("features.batch_size", 0, "features.batch_size=0 must be"),
    ],
)
@pytest.mark.parametrize("kind", ["export.json", "config.json"])
def test_settings_of_strangers_are_checked(
    exported, tiny_run, tmp_path, kind, key, value, message
):
    source = {"export.json": exported, "config.json": tiny_run}[kind]
    content = json.loads((source / kind).read_text())
    section = content["config"] if kind == "export.json" else content
    *folders, name = key.split(".")
    for folder in folders:
        section = section[folder]
    section[name] = value
    (tmp_path / kind).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"{kind}.*{message}"):
        encoder_sources.open_source(str(tmp_path))


@pytest.mark.parametrize(
    "name", ["../../etc/x_encoder", "video2_encoder", "/x_encoder"]
)
def test_an_encoders_name_is_no_path(exported, tmp_path, name):
    content = json.loads((exported / "export.json").read_text())
    content["encoders"][name] = content["encoders"].pop("video_encoder")
    (tmp_path / "export.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="export.json lists the encoders"):
        encoder_sources.open_source(str(tmp_path))


@pytest.mark.parametrize("name", ["imported_run", "exported"])
def test_what_was_trained_elsewhere_has_no_initial_encoders(request, name):
    directory = str(request.getfixturevalue(name))
    with pytest.raises(ValueError, match="no encoders from before its training"):
        encoder_sources.open_source(directory, initial=True)
