"""The files of a folder of cluster pages: its data tables, and what is there already.

A data table is a script of one line, page_data("NAME", JSON);, since a page opened from
disk may load scripts and fetch nothing. The JSON has no character in it that HTML or
JavaScript take for more than text, whatever ids and labels hold. docs/cluster_pages.md
lists the tables.
"""

import contextlib
import glob
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xdc_tf.runtime import files, json_files, locks, outputs

DATA_DIR = "data"
MEDIA_DIR = "media"
STATE_FILE = "state.json"
PLOTLY_FILE = "plotly.min.js"
FORMAT_VERSION = 1
_LOCK_FILE = ".lock"
_PAGE_DIR = Path(__file__).parent / "page"
_BLOCK_VALUES = 1 << 16
# "<", ">" and "&" begin and end what HTML takes for markup or for entities; ASCII alone
# leaves nothing of U+2028 and U+2029, which end a line of JavaScript.
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def script_json(value: Any) -> str:
    """A value as JSON that may stand in a script, in ASCII.

    Raises:
      ValueError: on a number that is not finite, which JSON has not.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPES)


def number(value: float | None) -> float | None:
    """A number of six significant digits; None where there is none."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


def write_table(out_dir: str, name: str, value: Any) -> None:
    """Writes data/NAME.js, whole or not at all."""
    _write_pieces(out_dir, name, [script_json(value)])


def write_columns(
    out_dir: str, name: str, columns: Mapping[str, Iterable[np.ndarray]]
) -> None:
    """Writes data/NAME.js with a list of whole numbers for each name, in blocks.

    Args:
      out_dir: the folder of pages.
      name: of the table.
      columns: by name, blocks of the numbers; one block is in memory at a time.
    """

    def pieces() -> Iterator[str]:
        yield "{"
        for place, (key, blocks) in enumerate(columns.items()):
            yield f"{',' if place else ''}{script_json(key)}:["
            is_first = True
            for block in blocks:
                if len(block):
                    text = ",".join(map(str, block.tolist()))
                    yield text if is_first else f",{text}"
                    is_first = False
            yield "]"
        yield "}"

    _write_pieces(out_dir, name, pieces())


def _write_pieces(out_dir: str, name: str, pieces: Iterable[str]) -> None:
    path = os.path.join(out_dir, DATA_DIR, f"{name}.js")
    with files.placing(path) as temporary:
        with open(temporary, "w", encoding="ascii", newline="") as file:
            file.write(f'page_data("{name}", ')
            for piece in pieces:
                file.write(piece)
            file.write(");\n")


def read_table(out_dir: str, name: str) -> Any:
    """The value of data/NAME.js.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is no such table.
    """
    path = os.path.join(out_dir, DATA_DIR, f"{name}.js")
    text = files.read_text(path)
    prefix, suffix = f'page_data("{name}", ', ");\n"
    if not (text.startswith(prefix) and text.endswith(suffix)):
        raise ValueError(f"{path} is no table of cluster pages; make the pages again.")
    return json.loads(text[len(prefix) : -len(suffix)])


class State(NamedTuple):
    """What a folder of pages has of a run, in state.json; field names are its keys.

    Attributes:
      run: what tells a run and its records from others.
      media: of each example whose clip is made, what MediaFacts.to_json says.
      maps: by source, what the map and its neighbours were made of.
    """

    run: dict[str, Any]
    media: dict[str, dict[str, Any]]
    maps: dict[str, Any]


def write_state(out_dir: str, state: State) -> None:
    """Writes state.json, whole or not at all."""
    values = {"format": FORMAT_VERSION, **state._asdict()}
    path = os.path.join(out_dir, STATE_FILE)
    files.write_text(path, json.dumps(values, allow_nan=False) + "\n")


@contextlib.contextmanager
def claimed(out_dir: str, run: Mapping[str, Any]) -> Iterator[State]:
    """Takes a folder for the pages of a run, new or with an earlier attempt in it.

    Args:
      out_dir: the folder; made if missing.
      run: JSON values that tell the run and its records from others.

    Yields:
      What is there already. Nobody else writes the folder meanwhile.

    Raises:
      BlockingIOError: another process writes it.
      FileExistsError: it holds something else.
      OSError: it cannot be written.
      ValueError: it holds pages of another run, or links that lead out of it.
    """
    if "://" in out_dir:
        raise ValueError(
            f"--out={out_dir} must be a local folder; copy the folder to a bucket "
            "when it is complete."
        )
    if os.path.lexists(out_dir) and not os.path.isdir(out_dir):
        raise FileExistsError(f"--out={out_dir} is a file; choose another folder.")
    state = _read_state(out_dir, dict(run))
    outputs.try_directory(out_dir)
    lock_path = os.path.join(out_dir, _LOCK_FILE)
    with locks.Lock(lock_path, held=out_dir, remove=True):
        files.check_no_links(out_dir)
        for folder in (DATA_DIR, MEDIA_DIR):
            os.makedirs(os.path.join(out_dir, folder), exist_ok=True)
            # Of a process that was killed while it wrote them.
            pattern = os.path.join(glob.escape(out_dir), folder, ".*.partial*")
            for left in glob.glob(pattern):
                os.remove(left)
        write_state(out_dir, state)
        yield state


def _read_state(out_dir: str, run: dict[str, Any]) -> State:
    path = os.path.join(out_dir, STATE_FILE)
    names = set(os.listdir(out_dir)) if os.path.isdir(out_dir) else set()
    if STATE_FILE not in names:
        # What is written first may have been cut before the state was there.
        others = names - {_LOCK_FILE, DATA_DIR, MEDIA_DIR, f".{STATE_FILE}"}
        others -= {".state.partial.json"}
        if others or any(
            os.listdir(os.path.join(out_dir, folder))
            for folder in names & {DATA_DIR, MEDIA_DIR}
        ):
            raise FileExistsError(
                f"--out={out_dir} holds something else than cluster pages "
                f"({ascii(sorted(names)[0])[:80]}); choose a new folder, or empty it."
            )
        return State(run, {}, {})
    values = json_files.read_object(path)
    checks = {
        "format": json_files.is_count,
        "run": json_files.is_object,
        "media": json_files.mapping_of(json_files.is_object),
        "maps": json_files.is_object,
    }
    remedy = "remove the folder, and the pages are made anew."
    try:
        json_files.check(values, checks, path)
    except ValueError as error:
        raise ValueError(
            f"{error} {out_dir} holds no cluster pages; {remedy}"
        ) from None
    if values["format"] != FORMAT_VERSION:
        raise ValueError(f"{path} is of format {values['format']}; {remedy}")
    if values["run"] != json.loads(json.dumps(run)):
        raise ValueError(
            f"--out={out_dir} holds the pages of another run or of other records "
            f"({ascii(values['run'].get('workdir'))[:200]}); choose a new folder, or "
            "remove that one."
        )
    return State(run, values["media"], values["maps"])


def copy_page(out_dir: str) -> None:
    """Copies what shows the tables: the page's own files, and the plotting library."""
    for source in sorted(_PAGE_DIR.glob("*.*")):
        if source.suffix in (".html", ".js", ".css"):
            with files.placing(os.path.join(out_dir, source.name)) as temporary:
                shutil.copyfile(source, temporary)
    import plotly.offline  # takes a second, and nothing else needs it

    files.write_text(os.path.join(out_dir, PLOTLY_FILE), plotly.offline.get_plotlyjs())


def remove_other_tables(out_dir: str, names: set[str]) -> None:
    """Removes data tables of other names, which an earlier build has left."""
    folder = os.path.join(out_dir, DATA_DIR)
    for name in set(os.listdir(folder)) - {f"{name}.js" for name in names}:
        os.remove(os.path.join(folder, name))


def digest(data: bytes) -> str:
    """A short hexadecimal digest, to see whether something has changed."""
    return hashlib.sha256(data).hexdigest()[:16]


def media_name(example: int, ending: str) -> str:
    """Path in the folder of a file of an example's clip."""
    return f"{MEDIA_DIR}/{example}.{ending}"
