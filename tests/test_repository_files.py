"""What runs the checks, and what a stranger is told to cite, agree with the project."""

import pathlib
import re
import sys

import pytest

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parents[1]
yaml = pytest.importorskip("yaml")


def load(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def project():
    if sys.version_info < (3, 11):
        pytest.skip("needs tomllib")
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_hosted_workflow_ends_with_the_command_of_ci_on_debians_python_3_11():
    (job,) = load(".github/workflows/ci.yml")["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert job["container"] == "debian:bookworm"  # whose python3 is 3.11
    assert "python3-venv" in commands[0]
    assert commands[1:] == [".ci/run", ".ci/run --all"]
    by_day, by_night = job["steps"][-2:]
    assert (by_day["if"], by_night["if"]) == (
        "github.event_name != 'schedule'",
        "github.event_name == 'schedule'",
    )
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_hooks_of_commits_are_local_and_check_what_make_test_checks():
    repositories = load(".pre-commit-config.yaml")["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    entries = {hook["id"]: hook["entry"] for hook in repositories[0]["hooks"]}
    assert set(entries) == {"ruff-check", "ruff-format", "mypy"}
    makefile = (ROOT / "Makefile").read_text()
    for tool in ("ruff check", "mypy"):
        assert entries[tool.replace(" ", "-")].startswith(f".venv/bin/python -m {tool}")
        assert f"$(RUN) -m {tool}" in makefile


def test_the_citation_is_of_this_version_and_licence():
    citation, metadata = load("CITATION.cff"), project()["project"]
    assert citation["title"] == metadata["name"]
    assert str(citation["version"]) == metadata["version"]
    assert citation["license"] == metadata["license"]


def test_modules_that_are_exempt_from_type_checks_exist():
    (exempt,) = project()["tool"]["mypy"]["overrides"]
    for module in exempt["module"]:
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").is_file(), f"{module} is no module any more."


def test_links_of_pages_lead_to_files():
    pages = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("configs/**/*.md"),
    ]
    links = [
        (page, link.split("#")[0])
        for page in pages
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        if not link.startswith(("http", "#"))
    ]
    assert len(links) > 40
    for page, link in links:
        assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_paths_and_modules_that_pages_name_exist():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    named = [
        (page, name)
        for page in pages
        for name in re.findall(
            r"\b((?:xdc_tf|data_prep|benchmarks|tests|configs)(?:[./][a-z0-9_]+)+)",
            page.read_text(encoding="utf-8"),
        )
    ]
    assert len(named) > 100
    for page, name in named:
        assert _exists(name), f"{page.name} names {name}, which is not there."


def _exists(name):
    """Whether a dotted or slashed name is of a file, a folder, or what a module has."""
    if (ROOT / name).exists():
        return True
    parts = name.removesuffix(".py").replace(".", "/").split("/")
    for depth in range(len(parts), 1, -1):
        path = ROOT.joinpath(*parts[:depth])
        if path.is_dir() or any(path.parent.glob(f"{path.name}.*")):
            return depth == len(parts) or parts[depth] in _text_of(path)
        # Such as finetune*.py.
        if any(path.parent.glob(f"{path.name}*")):
            return depth == len(parts)
    return False


def _text_of(path):
    files = [path / "__init__.py", path.with_suffix(".py")]
    return "".join(file.read_text("utf-8") for file in files if file.is_file())


def test_the_readme_is_a_page_of_two_hundred_lines_at_most():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
