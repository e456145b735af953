"""Tests of text that leaves the program: nothing in it acts in its medium."""

import csv
import io
import json
import re

import markdown
import pytest

from xdc_tf.runtime import escaping

pytestmark = pytest.mark.once

TABLES = ["tables"]
HOSTILE = [
    "\x1b[2J\x1b]0;title\x07",
    "a\rb",
    "a\nb",
    "\u202egnp.exe",
    "\x9b31m",
    "\ud800",
    "zero\u200bwidth",
    "[a](http://x.org)",
    "![](https://x.org/pixel.png)",
    "<img src=x onerror=alert(1)>",
    "a | b",
    "`code`",
    "**bold** __bold__ ~~struck~~",
    "$\\frac{1}{2}$",
    "# heading",
    "1. list",
    "- list",
    "www.x.org mail@x.org http://x.org",
    "&lt;b&gt;",
    "\\",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "escape",
    [
        escaping.terminal,
        escaping.markdown,
        escaping.yaml,
        escaping.latex,
        escaping.plot,
    ],
)
def test_all_but_spreadsheets_get_one_printable_line(escape, text):
    assert escape(text).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 日本", "plain é 日本"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\u202eb", "\\u202eb"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_a_terminal_gets_escapes_for_what_is_not_printable(text, shown):
    assert escaping.terminal(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("abcdefgh", "abcdefgh"),
        ("1234567890", "1234…890"),
        ("a\tb", "a\\tb"),
        ("\x1b" * 3, "\\x1b…x1b"),
    ],
)
def test_a_long_text_keeps_its_ends(text, shown):
    assert escaping.terminal(text, max_chars=8) == shown


def test_an_error_is_one_line_without_tensorflows_names():
    error = ValueError("{{function_node x}} no\n  JPEG \x1b[Op:Decode]")
    assert escaping.error_text(error) == "no JPEG \\x1b"
    assert escaping.error_text(ValueError()) == "ValueError"


def test_a_stream_passes_lines_and_escapes_the_rest():
    stream = io.StringIO()
    wrapped = escaping.TerminalStream(stream)
    print("a\tb\x1b[2J\r", "c", file=wrapped)
    wrapped.writelines(["d\n", "\u202e\n"])
    assert stream.getvalue() == "a\tb\\x1b[2J\\r c\nd\n\\u202e\n"
    assert wrapped.isatty() is False


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("r2plus1d_18, top-1: 0.5", "r2plus1d_18, top-1: 0.5"),
        ("-0.5", "-0.5"),
        ("62.7 ± 2.2 (6)", "62.7 ± 2.2 (6)"),
        ("[a](http://x)", r"\[a\](http&#58;//x)"),
        ("![a](x)", r"!\[a\](x)"),
        ("www.x.org", "www&#46;x.org"),
        ("a@x.org", "a&#64;x.org"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("a|b", "a&#124;b"),
        ("*a* _b_ `c` ~d~ $e$", r"\*a\* \_b\_ \`c\` \~d\~ \$e\$"),
        ("a\\|b", r"a\\&#124;b"),
        ("# a", r"\# a"),
        ("---", r"\---"),
        ("===", r"\==="),
        ("+ a", r"\+ a"),
        ("12. a", r"12\. a"),
        ("1) a", r"1\) a"),
        ("> a", "&gt; a"),
        ("a\n\n# b", "a # b"),
    ],
)
def test_markdown_shows_a_text_as_it_is(text, shown):
    assert escaping.markdown(text) == shown


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_has_no_character_of_markup_that_is_not_escaped(text):
    shown = escaping.markdown(text)
    # CommonMark: a backslash before punctuation, and entities, are text alone.
    plain = re.sub(r"\\[!-/:-@\[-`{-~]|&(?:#\d+|lt|gt|amp);", "", shown)
    assert not re.search(r"[\\`*\[\]<>|~$&@]|://|www\.|^(#|[-+=] |\d+[.)] )", plain)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_renderer_of_markdown_makes_nothing_but_cells_of_it(text):
    cell = escaping.markdown(text)
    page = markdown.markdown(f"| a | b |\n|---|---|\n| {cell} | x |", extensions=TABLES)
    tags = re.findall(r"<(\w+)", page)
    expected = ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    assert tags == expected
    assert set(re.findall(r"<(\w+)", markdown.markdown(cell))) == {"p"}


def test_front_matter_keeps_a_text_in_its_quotes():
    text = 'MIT"\n---\nmalicious: true\u2028x'
    value = escaping.yaml(text)
    assert value == '"MIT\\" --- malicious: true x"'
    assert json.loads(value) == 'MIT" --- malicious: true x'


@pytest.mark.parametrize(
    "text",
    [
        '=HYPERLINK("http://x.org","y")',
        "+1+cmd|' /C calc'!A0",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        " =1",
        "\n=1",
        "＝1",
    ],
)
def test_a_cell_that_would_be_a_formula_becomes_text(text):
    assert escaping.csv_cell(text) == f"'{text}"
    lines = io.StringIO(newline="")
    csv.writer(lines).writerow([escaping.csv_cell(text)])
    ((cell,),) = csv.reader(io.StringIO(lines.getvalue(), newline=""))
    assert cell[0] == "'"


@pytest.mark.parametrize("value", [-1, -0.5, None, "", "xdc", "a-b", "a=b", "1e-5"])
def test_other_cells_stay_as_they_are(value):
    assert escaping.csv_cell(value) == value


def test_a_dollar_in_a_plot_begins_no_formula():
    from matplotlib.figure import Figure

    figure = Figure()
    text = figure.suptitle(escaping.plot("$\\broken{$ and $5"))
    assert text.get_text() == "\\$\\broken{\\$ and \\$5"
    figure.canvas.draw()  # an unknown command of a formula would be an error


def test_latex_takes_nothing_for_commands():
    assert escaping.latex("\\input{x} 5% a_b") == (
        r"\textbackslash{}input\{x\} 5\% a\_b"
    )
