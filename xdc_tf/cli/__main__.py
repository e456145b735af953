"""The console script: `xdc-tf COMMAND` runs a command, `xdc-tf` alone lists them all.

`python -m xdc_tf.cli COMMAND` does the same.
"""

import difflib
import importlib
import sys

from xdc_tf.cli import recipe_flags
from xdc_tf.runtime import program

# In the order of their use. Named, not imported: what a command does not need is not
# loaded, and what data_prep holds is above this package.
COMMANDS = {
    "synthetic": "data_prep.synthetic",
    "make-manifest": "data_prep.make_manifest",
    "convert": "data_prep.convert",
    "inspect": "data_prep.inspect",
    "advise": "xdc_tf.cli.advise",
    "plan": "xdc_tf.cli.plan",
    "pretrain": "xdc_tf.cli.pretrain",
    "import-weights": "xdc_tf.cli.import_weights",
    "evaluate": "xdc_tf.cli.evaluate",
    "compare": "xdc_tf.cli.compare",
    "reproduce": "xdc_tf.cli.reproduce",
    "browse": "xdc_tf.cli.browse",
    "choose-k": "xdc_tf.cli.choose_k",
    "assign": "xdc_tf.cli.assign",
    "extract-features": "xdc_tf.cli.extract_features",
    "export": "xdc_tf.cli.export",
    "export-torch": "xdc_tf.cli.export_torch",
}
_HELP = ("help", "-h", "-help", "--help")


def run() -> None:
    """Runs the command that sys.argv names, and leaves with its exit code."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in _HELP:
        print(_overview())
        return
    command = name.replace("_", "-")
    if command not in COMMANDS:
        program.print_error(_unknown(name))
        sys.exit(1)
    # Command and flags as if the command were a program: flags of configurations read
    # sys.argv, and --help shows its first item.
    sys.argv = [f"xdc-tf {command}", *arguments]
    importlib.import_module(COMMANDS[command]).run()


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [
        f"  {command:<{width}}{recipe_flags.first_line(module)}"
        for command, module in COMMANDS.items()
    ]
    return "\n".join(
        [
            "Cross-modal deep clustering of videos and their audio.",
            "",
            "Usage: xdc-tf COMMAND [--flag=value ...]; xdc-tf COMMAND --help lists the "
            "flags.",
            "",
            *lines,
        ]
    )


def _unknown(name: str) -> str:
    nearest = difflib.get_close_matches(name.replace("_", "-"), COMMANDS, n=1)
    suggestion = f"; did you mean {nearest[0]}?" if nearest else "."
    return f"unknown command {name!r}{suggestion} (xdc-tf alone lists the commands)"


if __name__ == "__main__":
    run()
