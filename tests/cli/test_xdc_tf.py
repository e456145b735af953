"""The console script xdc-tf: its list of commands, its errors, and packaged recipes."""

import pathlib
import pkgutil
import re
import subprocess
import sys

import pytest

import data_prep
from xdc_tf import cli
from xdc_tf.cli import __main__ as console
from xdc_tf.cli import recipe_flags

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parents[2]


def xdc_tf(*arguments, python=("-X", "importtime")):
    return subprocess.run(
        [sys.executable, *python, "-m", "xdc_tf.cli", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def programs():
    """The modules of both packages that are programs."""
    for package in (cli, data_prep):
        for module in pkgutil.iter_modules(package.__path__):
            path = pathlib.Path(package.__path__[0], f"{module.name}.py")
            if path.is_file() and "program.run(main" in path.read_text():
                yield f"{package.__name__}.{module.name}"


def test_every_program_is_a_command_by_its_modules_name():
    assert sorted(console.COMMANDS.values()) == sorted(programs())
    for command, module in console.COMMANDS.items():
        assert module.rpartition(".")[2].replace("_", "-") == command


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_it_lists_each_command_in_a_line_and_loads_none(arguments):
    done = xdc_tf(*arguments)
    assert done.returncode == 0
    listed = re.findall(r"^  (\S+)  +(\S.*\.)$", done.stdout, flags=re.MULTILINE)
    assert [command for command, _ in listed] == list(console.COMMANDS)
    assert max(map(len, done.stdout.splitlines())) <= 100  # columns
    imported = re.findall(r"\| +([\w.]+)$", done.stderr, flags=re.MULTILINE)
    assert "xdc_tf.cli.recipe_flags" in imported
    assert not {"tensorflow", "numpy", "ml_collections"} & set(imported)


def test_a_command_gets_its_flags_and_shows_them_under_its_name():
    done = xdc_tf("choose_k", "--help", python=())
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nxdc-tf choose-k:\n" in done.stdout
    assert "--candidates:" in done.stdout
    same = xdc_tf("choose-k", "--help", python=())
    assert same.stdout == done.stdout


@pytest.mark.parametrize(
    "name, message",
    [
        ("pretrian", "unknown command 'pretrian'; did you mean pretrain?"),
        ("export_troch", "unknown command 'export_troch'; did you mean export-torch?"),
        ("zzz", "unknown command 'zzz'."),
        ("--config=base", "unknown command '--config=base'."),
    ],
)
def test_an_unknown_command_is_one_line_that_suggests_the_nearest(name, message):
    done = xdc_tf(name, python=())
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {message} (xdc-tf alone lists the commands)\n"


def test_a_mistake_in_a_commands_flags_is_its_exit_code():
    done = xdc_tf("evaluate", "--protocol=guess", python=())
    assert done.returncode == 1
    assert done.stderr.startswith("error: flag --protocol=guess: ")
    assert done.stderr.count("\n") == 1


def test_recipes_are_the_files_of_configs_by_their_path():
    assert recipe_flags.recipe_names() == ["base", "synthetic", "transformers"]
    finetuning = sorted((ROOT / "configs" / "finetune").glob("[a-z]*.py"))
    assert recipe_flags.recipe_names("finetune") == [
        f"finetune/{path.stem}" for path in finetuning
    ]
    path = recipe_flags.recipe_path("finetune/ucf101", folder="finetune")
    assert pathlib.Path(path).samefile(ROOT / "configs" / "finetune" / "ucf101.py")


def test_a_recipe_comes_before_a_file_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("synthetic", "own.py"):
        (tmp_path / name).write_text("")
    assert recipe_flags.recipe_path("synthetic").endswith("configs/synthetic.py")
    assert recipe_flags.recipe_path("./synthetic") == "./synthetic"
    assert recipe_flags.recipe_path("own.py") == "own.py"


@pytest.mark.parametrize(
    "value, suggestion",
    [("synthetc", " Did you mean synthetic?"), ("finetune/base", ""), ("a/b.py", "")],
)
def test_what_is_neither_recipe_nor_file_is_one_line_with_the_recipes(
    value, suggestion
):
    done = xdc_tf("plan", f"--config={value}", "--num_videos=1", python=())
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: flag --config={value}: No such file or packaged recipe.{suggestion} "
        "Recipes: base, synthetic, transformers. (--help lists the flags)\n"
    )


def test_help_lists_the_recipes_with_what_they_are():
    shown = " ".join(xdc_tf("evaluate", "--help", python=()).stdout.split())
    assert "one of the recipes: finetune/audioset_20k: AudioSet-20k, " in shown
    assert "finetune/base: Every key of a finetuning" in shown
    assert "finetune/ucf101: UCF101, " in shown
    assert "one of the recipes: base: Every key of a run's configuration" in shown
