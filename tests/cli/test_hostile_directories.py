"""Work directories and exports of strangers, given to every command that takes one."""

import hashlib
import json
import os
import shutil
import sys

import pytest
from forked_commands import ROOT, run_command

sys.path.insert(0, os.path.join(ROOT, "tests", "models"))
import hostile_models  # noqa: E402


@pytest.fixture(scope="module")
def marker(tmp_path_factory):
    return tmp_path_factory.mktemp("outside") / "ran"


@pytest.fixture(scope="module")
def hostile_run(tiny_run, marker, tmp_path_factory):
    """A run whose audio encoder runs a program where Keras opens it."""
    run = tmp_path_factory.mktemp("hostile") / "run"
    shutil.copytree(tiny_run, run)
    encoder = run / "audio_encoder.keras"
    hostile_models.write_lambda(encoder, marker)
    # Its clusters are made to be of this encoder.
    last = run / "labels" / "round_002" / "settings.json"
    settings = json.loads(last.read_text())
    digest = hashlib.sha256(encoder.read_bytes()).hexdigest()
    settings["settings"]["encoders_sha256"]["audio"] = digest
    settings.pop("record_sha256", None)
    last.write_text(json.dumps(settings))
    return run


@pytest.fixture(scope="module")
def tiny_config_file(new_tiny_config, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(
        "import ml_collections\n"
        f"def get_config(): return ml_collections.ConfigDict({new_tiny_config()!r})\n"
    )
    return path


COMMANDS = {
    "export": ["--workdir={run}", "--out={out}/made"],
    "export_torch": ["--workdir={run}", "--out={out}/made.pth", "--stream=audio"],
    "extract_features": ["--workdir={run}", "--videos={records}", "--out={out}/made"],
    "assign": ["--workdir={run}", "--videos={records}", "--out={out}/made.csv"],
    "evaluate": [
        *("--workdir={run}", "--records={records}", "--test_records={records}"),
        *("--protocol=linear", "--allow_overlap"),
    ],
    "pretrain": [
        *("--config={config}", "--config.init_from={run}", "--records={records}"),
        "--workdir={out}/made",
    ],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_strangers_encoder_runs_nothing(
    command, hostile_run, marker, tiny_config_file, tiny_records, tmp_path
):
    arguments = [
        argument.format(
            run=hostile_run,
            out=tmp_path,
            records=tiny_records / "train",
            config=tiny_config_file,
        )
        for argument in COMMANDS[command]
    ]
    done = run_command(f"xdc_tf.cli.{command}", *arguments)
    assert done.returncode == 1
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "audio_encoder.keras cannot be read as the weights of" in error
    assert "Traceback" not in done.stderr
    assert not marker.exists()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "place", ["lock", "config.json", "labels", "features/audio.npy", "checkpoints/x"]
)
def test_a_run_does_not_go_on_through_links(
    place, tiny_run, tiny_config_file, tiny_records, tmp_path
):
    run, precious = tmp_path / "run", tmp_path / "precious"
    shutil.copytree(tiny_run, run)
    if place == "labels":
        shutil.move(run / "labels", precious)
    else:
        precious.write_text("precious\n" * 100)
        (run / place).unlink(missing_ok=True)
    (run / place).symlink_to(precious)
    done = run_command(
        "xdc_tf.cli.pretrain",
        f"--config={tiny_config_file}",
        f"--workdir={run}",
        f"--records={tiny_records / 'train'}",
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert str(run / place) in done.stderr
    if place != "labels":
        assert precious.read_text() == "precious\n" * 100


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "checkpoints/checkpoint",
            'model_checkpoint_path: "/etc/../evil"\n'
            'all_model_checkpoint_paths: "/etc/../evil"\n',
            "names 'evil', which is no checkpoint",
        ),
        (
            "config.json",
            '{"method": "xdc", "log_mel": 3}',
            "config.log_mel=3 must have keys of its own",
        ),
        ("config.json", "[" * 100_000, "is not JSON"),
    ],
)
def test_a_run_with_a_forged_file_does_not_go_on(
    file, content, message, tiny_run, tiny_config_file, tiny_records, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / file).write_text(content)
    command = {"config.json": "export"}.get(file, "pretrain")
    arguments = {
        "export": [f"--workdir={run}", f"--out={tmp_path / 'made'}"],
        "pretrain": [
            *(f"--config={tiny_config_file}", f"--workdir={run}"),
            f"--records={tiny_records / 'train'}",
        ],
    }[command]
    done = run_command(f"xdc_tf.cli.{command}", *arguments)
    assert done.returncode == 1
    assert message in done.stderr and done.stderr.startswith("error: ")


def test_checksums_name_files_beside_them_alone(tiny_run, tmp_path):
    from xdc_tf.training import checkpoints

    sums = tmp_path / "ckpt-1.sha256"
    for name in ("../../secret", "/dev/zero", "a/b"):
        sums.write_text(f"{'0' * 64}  {name}\n")
        assert "is not the name of a file" in checkpoints._damage(
            str(tmp_path / "ckpt-1")
        )
    os.symlink("/dev/zero", tmp_path / "ckpt-1.index")
    sums.write_text(f"{'0' * 64}  ckpt-1.index\n")
    assert "give a regular file" in checkpoints._damage(str(tmp_path / "ckpt-1"))
