"""Command lines in processes forked from one that has imported TensorFlow.

Its import takes longer than all else that a short command does. What is told of
processes started from nothing is tests/cli/test_program.py's part.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CONTEXT = multiprocessing.get_context("forkserver")
# Takes effect with the first process.
CONTEXT.set_forkserver_preload(["xdc_tf.evaluation.task_imports"])


def run_command(module: str, *arguments: object) -> subprocess.CompletedProcess:
    """Does what `python -m MODULE ARGUMENTS...` does in the repository.

    Or what `python MODULE ARGUMENTS...` does if it is the path of a script.
    """
    arguments = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        process = CONTEXT.Process(target=_run, args=(module, arguments, *paths))
        process.start()
        process.join()
        outputs = []
        for path in paths:
            with open(path, encoding="utf-8") as file:
                outputs.append(file.read())
    command = [module, *arguments]
    return subprocess.CompletedProcess(command, process.exitcode, *outputs)


def _run(module: str, arguments: list[str], *paths: str) -> None:
    for descriptor, path in enumerate(paths, start=1):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(ROOT)
    sys.argv = [module, *arguments]
    if module.endswith(".py"):
        runpy.run_path(module, run_name="__main__")
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
