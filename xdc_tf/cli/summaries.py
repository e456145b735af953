"""First lines of modules' docstrings, read without importing the modules."""

import ast
import importlib.util


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
