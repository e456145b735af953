"""What an export's signatures give besides features, and its other formats."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from xdc_tf.evaluation import reports
from xdc_tf.evaluation.reports import SplitResult
from xdc_tf.export import export_run, model_files
from xdc_tf.labels import label_tables
from xdc_tf.models import encoder_files
from xdc_tf.runtime import workdir


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("signatures") / "exported"
    splits = [
        [SplitResult("video", {"top1": top1}, {"confusion": [[1]]})]
        for top1 in (0.5, 0.6)
    ]
    report = reports.make_report(
        "linear",
        splits,
        split_names=["1", "2"],
        source={"video": {"directory": "/home/somebody/run"}},
        settings={"num_clips": 3},
        config={},
        records={},
    )
    export_run.export(
        str(tiny_run),
        str(out),
        formats=["tflite"],
        licence="CC-BY-4.0",
        results=[report],
    )
    return out


@pytest.fixture(scope="module")
def waveform():
    rng = np.random.default_rng(0)
    return tf.constant(rng.normal(0, 0.1, (3, 9600)).astype(np.float32))


@pytest.fixture(scope="module")
def signatures(exported):
    return tf.saved_model.load(str(exported / "audio_encoder")).signatures


def test_probabilities_are_the_softmax_of_the_runs_head(tiny_run, signatures, waveform):
    features = signatures["serving_default"](waveform=waveform)["features"].numpy()
    heads = encoder_files.load_heads(
        workdir.heads_file(str(tiny_run), "audio"), num_features=32
    )
    logits = features @ heads["video"].kernel + heads["video"].bias
    exponentials = np.exp(logits)
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    found = signatures["probabilities"](waveform=waveform)
    assert list(found) == ["video"]  # XDC: clusters of the other modality
    np.testing.assert_allclose(found["video"], expected, rtol=1e-4)


def test_clusters_are_the_nearest_of_the_last_label_table(
    tiny_run, signatures, waveform
):
    features = signatures["serving_default"](waveform=waveform)["features"].numpy()
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    table = label_tables.read(workdir.round_dir(str(tiny_run), 2))
    centroids = table.clusterings["audio"].centroids
    distances = np.linalg.norm(rows[:, None] - centroids, axis=2)
    first, second = np.sort(distances, axis=1)[:, :2].T
    found = signatures["clusters"](waveform=waveform)
    np.testing.assert_array_equal(found["cluster"], distances.argmin(axis=1))
    np.testing.assert_allclose(found["distance"], first, atol=1e-4)
    np.testing.assert_allclose(found["margin"], second - first, atol=1e-4)


def test_prepare_gives_the_input_of_the_encoder(exported, waveform):
    loaded = tf.saved_model.load(str(exported / "audio_encoder"))
    served = loaded.signatures["serving_default"](waveform=waveform)["features"]
    prepared = loaded.prepare(waveform)
    assert prepared.shape == (3, 30, 40, 1)
    np.testing.assert_allclose(loaded(prepared), served, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros([0, 9600], np.float32), "waveform .B, samples. must not be empty"),
        (np.zeros([2, 0], np.float32), "must have at least 320 samples"),
        (np.zeros([2, 319], np.float32), "must have at least 320 samples"),
        (np.full([1, 9600], np.nan, np.float32), "waveform holds NaN or infinity"),
    ],
)
@pytest.mark.parametrize("signature", ["serving_default", "probabilities", "clusters"])
def test_a_waveform_that_has_no_features_is_an_error(
    signatures, signature, samples, message
):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        signatures[signature](waveform=tf.constant(samples))


@pytest.mark.parametrize("shape", [(0, 4, 20, 20, 3), (1, 0, 20, 20, 3)])
def test_clips_without_a_frame_are_an_error(exported, shape):
    serve = tf.saved_model.load(str(exported / "video_encoder")).signatures
    with pytest.raises(tf.errors.InvalidArgumentError, match="no dimension of 0"):
        serve["serving_default"](frames=tf.zeros(shape, tf.uint8))


@pytest.mark.parametrize("shape", [(1, 4, 16, 16, 3), (2, 3, 24, 18, 3)])
def test_tflite_gives_the_encoders_features_at_any_size(tiny_run, exported, shape):
    encoder = keras.models.load_model(workdir.encoder_file(str(tiny_run), "video"))
    clips = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    interpreter = tf.lite.Interpreter(str(exported / "video_encoder.tflite"))
    (entry,), (result,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    interpreter.resize_tensor_input(entry["index"], shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], clips)
    interpreter.invoke()
    np.testing.assert_allclose(
        interpreter.get_tensor(result["index"]),
        encoder(clips, training=False),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("stream", "shape"), [("video", (2, 3, 24, 18, 3)), ("audio", (1, 35, 40, 1))]
)
def test_onnx_gives_the_encoders_features_at_any_size(
    tiny_run, tmp_path, stream, shape
):
    onnxruntime = pytest.importorskip("onnxruntime")
    encoder = keras.models.load_model(workdir.encoder_file(str(tiny_run), stream))
    path = str(tmp_path / "encoder.onnx")
    model_files.save_onnx(encoder, path)
    inputs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["features"], {"inputs": inputs})
    np.testing.assert_allclose(
        found, encoder(inputs, training=False), rtol=1e-4, atol=1e-4
    )


def test_onnx_without_its_packages_says_what_to_install(
    tiny_run, tmp_path, monkeypatch
):
    monkeypatch.setitem(__import__("sys").modules, "tf2onnx", None)
    out = tmp_path / "exported"
    with pytest.raises(ValueError, match=r"requirements-onnx\.txt"):
        export_run.export(str(tiny_run), str(out), formats=["onnx"])
    assert not out.exists()


def test_an_unknown_format_is_an_error(tiny_run, tmp_path):
    with pytest.raises(ValueError, match=r"coreml.*tflite"):
        export_run.export(str(tiny_run), str(tmp_path / "out"), formats=["coreml"])


def test_the_card_tells_data_progress_metrics_and_licence(exported):
    card = json.loads((exported / "export.json").read_text())
    assert card["licence"] == "CC-BY-4.0"
    assert (card["method"], card["data"]["videos"]) == ("xdc", 24)
    # 20% of 24 videos held out: 19 trained on in batches of 4, one epoch per round.
    assert (card["progress"]["rounds"], card["progress"]["steps"]) == (2, 2 * 4)
    clusters = card["metrics"]["clusters"]["audio"]
    assert clusters["clusters"] == 4 and 1 <= clusters["effective_clusters"] <= 4
    (evaluation,) = card["metrics"]["evaluations"]
    assert (evaluation["protocol"], evaluation["settings"]) == (
        "linear",
        {"num_clips": 3},
    )
    assert evaluation["results"][0]["mean"] == {"top1": 0.55}
    readme = (exported / "README.md").read_text()
    assert "| linear, video | |" in readme
    assert "| top1 | 0.55 ± 0.071 over 2 splits |" in readme
    assert "somebody" not in readme + json.dumps(evaluation)
    assert set(card["encoders"]["audio_encoder"]["signatures"]) == {
        "serving_default",
        "probabilities",
        "clusters",
    }
    assert card["encoders"]["video_encoder"]["architecture"]["depth"] == 4


def test_the_card_for_people_has_no_markup_of_strangers(exported):
    card = json.loads((exported / "export.json").read_text())
    card["data"]["label_names"] = ["<script>alert(1)</script>", "a | b", "![](//x.y)"]
    card["data"]["[key](//x.y)"] = "\x1b[2J"
    card["licence"] = "MIT\n---\n# [free](http://x.y)"
    text = export_run.markdown(card)
    body = text.split("\n---\n", 1)[1]
    assert "<script>" not in body and "](" not in body.replace("\\](", "")
    assert "&lt;script&gt;" in text and "a &#124; b" in text
    assert text.replace("\n", "").isprintable()
    # The front matter ends where it should, and the text after it is a heading alone.
    assert text.splitlines()[1] == 'license: "MIT --- # [free](http://x.y)"'
    assert [line for line in text.splitlines() if line == "---"] == ["---", "---"]
    assert r"Licence of the weights: MIT --- # \[free\](http&#58;//x.y). The" in text
