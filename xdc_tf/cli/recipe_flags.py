"""Flags whose value is a configuration: a packaged recipe's name, or a Python file.

Recipes are the modules of xdc_tf.configs: `synthetic` is configs/synthetic.py, and
`finetune/ucf101` configs/finetune/ucf101.py. In the repository that package is a link
to the folder configs/; a wheel holds copies of its files.
"""

import ast
import difflib
import importlib.util
import os
import pkgutil
import sys
from typing import Any

from absl import flags

_PACKAGE = "xdc_tf.configs"

# --help lists a flag defined here with the module that calls DEFINE_recipe.
flags.disclaim_key_flags()


def recipe_names(folder: str = "") -> list[str]:
    """The names of the packaged recipes in a folder of xdc_tf.configs, sorted.

    Args:
      folder: name of a folder, such as "finetune"; empty for the recipes of
        pretraining, which lie in no folder.

    Raises:
      ValueError: if there is no such folder.
    """
    package = importlib.util.find_spec(_module_name(folder))
    if package is None or package.submodule_search_locations is None:
        raise ValueError(f"{folder!r} is no folder of {_PACKAGE}.")
    modules = pkgutil.iter_modules(package.submodule_search_locations)
    prefix = f"{folder}/" if folder else ""
    return sorted(f"{prefix}{module.name}" for module in modules if not module.ispkg)


def recipe_path(value: str, *, folder: str = "") -> str:
    """The configuration file that a flag's value names.

    Args:
      value: a recipe of `folder`, or the path of a file. A recipe comes before a file
        of the same name, for which ./NAME stands.
      folder: see recipe_names.

    Raises:
      ValueError: if it is neither.
    """
    names = recipe_names(folder)
    if value in names:
        recipe = importlib.util.find_spec(_module_name(value))
        assert recipe is not None and recipe.origin is not None  # it is in the list
        return recipe.origin
    if os.path.isfile(value):
        return value
    nearest = difflib.get_close_matches(value, names, n=1)
    suggestion = f" Did you mean {nearest[0]}?" if nearest else ""
    raise ValueError(
        f"No such file or packaged recipe.{suggestion} Recipes: {', '.join(names)}."
    )


def DEFINE_recipe(
    name: str, default: str | None, help_string: str, *, folder: str = ""
) -> flags.FlagHolder[Any]:
    """Defines a configuration flag; --NAME.KEY=VALUE changes a key of its value.

    Its name has the form of absl's functions, such as DEFINE_string.

    Args:
      name: of the flag.
      default: a recipe's name, or None.
      help_string: what the configuration is for; the recipes are listed after it.
      folder: see recipe_names.

    Returns:
      A holder whose value is the file's ml_collections.ConfigDict.
    """
    # Late: the list of all commands, which takes first_line from here, needs it not.
    from ml_collections import config_flags

    recipes = "".join(
        f"\n{recipe}: {first_line(_module_name(recipe))}"
        for recipe in recipe_names(folder)
    )
    holder = config_flags.DEFINE_config_file(
        name, None, f"{help_string} A Python file, or one of the recipes:{recipes}"
    )
    flag = flags.FLAGS[name]
    flag.parser = _RecipeParser(flag.parser, folder=folder)
    flags.set_default(holder, default)
    return holder


def find_neighbours() -> None:
    """Lets a configuration file import others, relative to the working directory."""
    sys.path.insert(0, os.getcwd())


def first_line(module: str) -> str:
    """The first line of a module's docstring.

    Args:
      module: full name; its packages are imported, the module itself is not.

    Raises:
      ModuleNotFoundError: if there is no such module.
      ValueError: if the module has no source or no docstring.
    """
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    if spec.origin is None:
        raise ValueError(f"{module} is a folder without source.")
    with open(spec.origin, encoding="utf-8") as file:
        docstring = ast.get_docstring(ast.parse(file.read()))
    if not docstring:
        raise ValueError(f"{spec.origin} has no docstring.")
    return docstring.splitlines()[0]


def _module_name(recipe: str) -> str:
    return ".".join([_PACKAGE, *filter(None, recipe.split("/"))])


class _RecipeParser(flags.ArgumentParser[Any]):
    """Parses NAME and PATH, and NAME:ARGUMENT and PATH:ARGUMENT for get_config."""

    def __init__(self, parser: flags.ArgumentParser[Any], *, folder: str):
        super().__init__()
        self._parser = parser  # of files
        self._folder = folder

    def parse(self, argument: str) -> Any:
        value, colon, rest = argument.partition(":")
        path = recipe_path(value, folder=self._folder)
        return self._parser.parse(path + colon + rest)

    def flag_type(self) -> str:
        return "configuration"
