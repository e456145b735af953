"""Names that strangers gave and errors of TensorFlow, for a terminal or a title."""

import re


def printable(text: str, *, max_chars: int | None = None) -> str:
    """The text on one line: control characters escaped, its middle left out if long.

    Args:
        text: anything; an escape sequence in it would reach the terminal.
        max_chars: at most so many, at least 3.
    """
    text = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )
    if max_chars is None or len(text) <= max_chars:
        return text
    # The end tells segments and numbered files apart.
    end = (max_chars - 1) // 2
    return f"{text[: max_chars - 1 - end]}…{text[len(text) - end :]}"


def told(error: Exception) -> str:
    """An error's message on one line, without TensorFlow's names of its operations."""
    message = getattr(error, "message", None) or str(error)
    message = re.sub(r"\{\{.*?\}\}|\[Op:[^]]*\]", "", message, flags=re.DOTALL)
    return " ".join(message.split()) or type(error).__name__
