"""A wheel in an empty environment: its files, and commands run from another folder."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import venv
import zipfile

import pytest

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parents[1]
BUILT_FROM = ["xdc_tf", "data_prep", "configs"]
BUILT_FROM += ["pyproject.toml", "requirements.txt", "README.md", "LICENSE"]
# Encoders and clips so small that a run takes seconds.
TINY = [
    "--config.num_rounds=1",
    "--config.clip.num_frames=2",
    "--config.clip.crop_size=16",
    "--config.clip.audio_secs=0.5",
    "--config.video_encoder.architecture=r3d",
    "--config.video_encoder.depth=4",
    "--config.audio_encoder.depth=4",
    "--config.kmeans.num_clusters=2",
    "--config.kmeans.num_restarts=1",
    "--config.features.batch_norm_batches=1",
    "--config.training.batch_size=4",
    "--config.training.epochs_per_round=1",
    "--config.training.held_out_share=0.0",
    "--config.optimizer.warmup_steps=1",
]


def run(*command, cwd):
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        # Nothing of the repository is importable but what was installed.
        env={name: os.environ[name] for name in os.environ if name != "PYTHONPATH"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of a copy, so that the repository gets no build directories."""
    source = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source / name)
    code = "from setuptools import build_meta; build_meta.build_wheel('wheel')"
    done = run(sys.executable, "-c", code, cwd=source)
    assert done.returncode == 0, done.stdout
    (path,) = (source / "wheel").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A new environment with the wheel in it, which sees the packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    shared = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "shared.pth").write_text("\n".join(shared))
    install = ["--python", folder / "bin" / "python", "install", "--no-deps"]
    install += ["--no-index", "--no-compile", "--disable-pip-version-check", wheel]
    done = run(sys.executable, "-m", "pip", *install, cwd=folder)
    assert done.returncode == 0, done.stdout
    return folder


@pytest.fixture(scope="module")
def elsewhere(environment, tmp_path_factory):
    """Where the commands ran, one after the other, with what each of them wrote."""
    folder = tmp_path_factory.mktemp("elsewhere")
    records = ["--records=records", "--test_records=records", "--allow_overlap"]
    evaluate = ["evaluate", "--workdir=run", *records, "--num_clips=1"]
    evaluate += ["--protocol=retrieval", "--streams=audio"]
    pretrain = ["pretrain", "--config=synthetic", *TINY]
    for command in (
        ["synthetic", "--out=videos", "--num_videos=20", "--size=32"]
        + ["--duration_secs=1"],
        ["convert", "--manifest=videos/manifest.csv", "--out=records"]
        + ["--fps=4", "--short_side=16"],
        [*pretrain, "--workdir=run", "--records=records"],
        [*evaluate, "--json=results.json"],
        ["export", "--workdir=run", "--out=exported", "--results=results.json"],
    ):
        done = run(environment / "bin" / "xdc-tf", *command, cwd=folder)
        assert done.returncode == 0, done.stdout
    return folder


def test_a_wheel_holds_the_recipes_and_no_package_of_a_common_name(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "xdc_tf",
        "data_prep",
        f"{wheel.name.rpartition('-py3')[0]}.dist-info",
    }
    for path in (ROOT / "configs").rglob("*.py"):
        assert f"xdc_tf/configs/{path.relative_to(ROOT / 'configs')}" in names
    assert {"xdc_tf/py.typed", "data_prep/py.typed"} <= set(names)


def test_an_installed_program_is_xdc_tf_alone(environment):
    programs = {path.name for path in (environment / "bin").glob("xdc*")}
    assert programs == {"xdc-tf"}


def test_installed_packages_import_nothing_of_the_repository(environment, tmp_path):
    code = "import data_prep, xdc_tf.configs.synthetic as recipe; "
    code += "print(data_prep.__file__, recipe.__file__, sep='\\n')"
    done = run(environment / "bin" / "python", "-c", code, cwd=tmp_path)
    assert len(done.stdout.splitlines()) == 2
    for line in done.stdout.splitlines():
        assert line.startswith(f"{environment}{os.sep}")


def test_installed_commands_go_from_videos_to_an_export(elsewhere):
    config = json.loads((elsewhere / "run" / "config.json").read_text())
    assert (config["kmeans"]["num_clusters"], config["num_rounds"]) == (2, 1)
    report = json.loads((elsewhere / "results.json").read_text())
    assert report["protocol"] == "retrieval"
    card = json.loads((elsewhere / "exported" / "export.json").read_text())
    assert set(card["encoders"]) == {"video_encoder", "audio_encoder"}


def test_an_installed_browse_finds_the_files_of_its_page(wheel, environment, tmp_path):
    page = ROOT / "xdc_tf" / "browse" / "page"
    expected = {path.name for path in page.iterdir()}
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"xdc_tf/browse/page/{name}" for name in expected} <= set(names)
    code = "from xdc_tf.browse import page_files; page_files.copy_page('.')"
    done = run(environment / "bin" / "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    copied = {path.name for path in tmp_path.iterdir()}
    assert copied == expected | {"plotly.min.js"}


def test_installed_reproduce_finds_its_configurations(environment, tmp_path):
    code = "from xdc_tf.experiments.reproduction_tables import SCALES, TABLES; "
    code += "print(len(TABLES['data'].variants(SCALES['small'], ['xdc'])))"
    done = run(environment / "bin" / "python", "-c", code, cwd=tmp_path)
    assert done.stdout == "4\n"
