"""Text that leaves the program, made inert: one function per medium.

Names of files, labels and methods, and whatever else was read from a file, may be a
stranger's. On a terminal they could move the cursor or reverse the order of what is
read, in Markdown become links and images, in a spreadsheet formulas.
"""

import html
import json
import re
from typing import Any, TextIO

# Characters that are markup wherever they stand; | and HTML's become entities, which no
# parser of tables takes for its own.
_MARKDOWN = re.compile(r"([\\`*\[\]~$])")
# Inside of words an underscore is none.
_MARKDOWN_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# What GitHub's Markdown makes links of without any markup.
_MARKDOWN_ADDRESS = re.compile(r":(?=//)|(?<=\bwww)\.|(?<=\bmailto):|(?<=\bxmpp):|@")
# What begins a heading, a list, a quotation, a table or a line under a heading.
_MARKDOWN_START = re.compile(r"^(\d*)(#|[+=-](?=[\s=-]|$)|(?<=\d)[.)](?=\s|$))")
# Spreadsheets take these for the beginning of a formula, the wide ones too.
_CSV_START = re.compile(r"\s*[=+\-@\t\r＝＋－＠]")
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$"}
)


def terminal(text: str, *, max_chars: int | None = None) -> str:
    """The text on one line of a terminal, or in a title.

    Control characters, escape sequences and marks that change the direction of writing
    are written as escapes such as \\x1b.

    Args:
      text: anything.
      max_chars: at most so many, at least 3; the middle of a longer text is left out.
    """
    text = _printable(text, kept="")
    if max_chars is None or len(text) <= max_chars:
        return text
    # Segments and numbered files differ at the end.
    end = (max_chars - 1) // 2
    return f"{text[: max_chars - 1 - end]}…{text[len(text) - end :]}"


def _printable(text: str, *, kept: str) -> str:
    """The text with escapes for what is not printable, but for some characters."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in kept else ascii(char)[1:-1]
        for char in text
    )


def error_text(error: Exception) -> str:
    """An error's message on one line, without TensorFlow's names of its operations."""
    message = getattr(error, "message", None) or str(error)
    message = re.sub(r"\{\{.*?\}\}|\[Op:[^]]*\]", "", str(message), flags=re.DOTALL)
    return terminal(" ".join(message.split())) or type(error).__name__


class TerminalStream:
    """A text stream in front of another, which escapes what is not printable.

    The net below `terminal`: whatever a command prints passes it, names or not. Line
    feeds and tabs pass as they are.
    """

    def __init__(self, stream: TextIO, *, kept: str = "\n\t"):
        """Wraps a stream.

        Args:
          stream: where to write.
          kept: characters that pass though they are not printable.
        """
        self._stream, self._kept = stream, kept

    def write(self, text: str) -> int:
        """Writes the text, escaped; returns its length."""
        self._stream.write(_printable(text, kept=self._kept))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes each of the texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def markdown(text: str) -> str:
    """The text for a paragraph, heading, table's cell or list item of Markdown.

    It shows as it is, on one line: no links, images, emphasis, HTML, formulas, headings
    or further cells.
    """
    text = terminal(" ".join(text.split()))
    text = _MARKDOWN.sub(r"\\\1", text)
    text = _MARKDOWN_UNDERSCORE.sub(r"\\_", text)
    text = html.escape(text, quote=False).replace("|", "&#124;")
    text = _MARKDOWN_START.sub(r"\1\\\2", text)
    return _MARKDOWN_ADDRESS.sub(lambda match: f"&#{ord(match[0])};", text)


def yaml(text: str) -> str:
    """The text as a quoted value on one line, as of a page's front matter."""
    return json.dumps(terminal(" ".join(text.split())), ensure_ascii=False)


def csv_cell(value: Any) -> Any:
    """A value for a cell of a CSV report that people open in a spreadsheet.

    A text that would be taken for a formula gets an apostrophe in front, which a
    spreadsheet does not show. Numbers stay as they are. Tables that programs read back
    (examples.csv, labels.csv, clips.csv and the like) do without: their ids must be
    exact to the byte.
    """
    is_formula = isinstance(value, str) and _CSV_START.match(value)
    return f"'{value}" if is_formula else value


def latex(text: str) -> str:
    """The text for a LaTeX document, on one line."""
    return terminal(" ".join(text.split())).translate(_LATEX)


def plot(text: str) -> str:
    """The text for a title or label of Matplotlib, where $ would begin a formula."""
    return terminal(" ".join(text.split())).replace("$", r"\$")
