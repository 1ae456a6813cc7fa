"""The command ``safe-embed``: texts, names and questions are data, and errors are explained."""

from __future__ import annotations

import codecs
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

import safe_embed
from safe_embed.cli import app as cli
from safe_embed.cli.demo import Question, is_answered, prepared_questions, read_manual
from safe_embed.search import Hit
from safe_embed.types import Span

TEXT = "春が来た。花が咲く。\n鳥が鳴く。"
ROWS = [(0, 5, "春が来た。"), (5, 11, "花が咲く。\n"), (11, 16, "鳥が鳴く。")]
MAIN = [sys.executable, "-c", "from safe_embed.cli.app import main; main()"]
# What looks like markup, an emoji's code, a link and a command to a terminal.
TRICKS = "[/x] [bold]太字[/bold] :smile: [link=https://a.jp]先[/link] \x1b[31m赤\x1b[0m \x9b7m裏\x07 \\[x]"
SHOWN = (
    *("[/x]", "[bold]太字[/bold]", ":smile:", "[link=https://a.jp]先[/link]", "\\[x]"),
    *("\\x1b[31m赤\\x1b[0m", "\\x9b7m裏\\x07"),
)


class Done(NamedTuple):
    """What a command has left."""

    status: object
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command as the console script does, in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str | Path, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "argv", ["safe-embed", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "ascii", "ignore"))
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return Done(caught.value.code or 0, *capsys.readouterr())

    return run


def rows(done: Done) -> list[tuple[int, int, str]]:
    """The spans that ``--json`` has printed."""
    assert (0, "") == (done.status, done.err)
    lines = map(json.loads, done.out.split("\n")[:-1])
    return [(line["start"], line["end"], line["text"]) for line in lines]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(TEXT.encode(), id="UTF-8"),
        pytest.param(codecs.BOM_UTF8 + TEXT.encode(), id="with BOM"),
        pytest.param(TEXT.replace("\n", "\r\n").encode(), id="lines of Windows"),
        pytest.param(TEXT.replace("\n", "\r").encode(), id="lines of old"),
    ],
)
def test_a_text_is_split(data: bytes, run: Run, tmp_path: Path) -> None:
    """A file, a file named -, and standard input give the same spans; a BOM is in none of them."""
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    assert ROWS == rows(run("split", "--json", path))
    assert ROWS == rows(run("split", "--json", stdin=data))
    assert ROWS == rows(run("split", "--json", "-", stdin=data))


def test_nothing_is_split_into_nothing(run: Run) -> None:
    """An empty input has no spans, with a BOM too."""
    assert [] == rows(run("split", "--json", stdin=b""))
    assert [] == rows(run("split", "--json", stdin=codecs.BOM_UTF8))


NOT_UTF8 = {
    "Shift_JIS": (TEXT.encode("cp932"), "CP932"),
    "EUC-JP": (TEXT.encode("euc_jp"), "EUC-JP"),
    "UTF-16": (TEXT.encode("utf-16"), "UTF-16"),
    "UTF-16BE": (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "UTF-16"),
    "UTF-32": (TEXT.encode("utf-32"), "UTF-32"),
    "surrogates": (TEXT.encode() + "\ud83d".encode("utf-8", "surrogatepass"), "CP932"),
    "cut off": (TEXT.encode()[:-1], "CP932"),
    "after a BOM": (codecs.BOM_UTF8 + b"\x83e", "CP932"),
}


@pytest.mark.parametrize("kind", NOT_UTF8)
@pytest.mark.parametrize("command", ["split", "demo"])
def test_what_is_not_utf8_is_explained(command: str, kind: str, run: Run, tmp_path: Path) -> None:
    """Both commands name file, byte and what to type, in both languages, and none of the text."""
    data, encoding = NOT_UTF8[kind]
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    done = run(command, path)
    with pytest.raises(UnicodeDecodeError) as caught:
        data.decode()
    assert (2, "") == (done.status, done.out)
    assert f"{path} is not UTF-8 (byte {caught.value.start})" in done.err
    assert encoding in done.err
    assert f"iconv -f {encoding.partition(' ')[0]} -t UTF-8" in done.err
    assert f"{path} は UTF-8 ではありません" in done.err
    assert not any(word in done.err for word in ("春", "Traceback", "codec"))


def test_standard_input_that_is_not_utf8_is_explained(run: Run) -> None:
    """It has no name of a file, and is named in both languages."""
    done = run("split", stdin=TEXT.encode("cp932"))
    assert (2, "") == (done.status, done.out)
    assert "standard input is not UTF-8 (byte 0)" in done.err
    assert "標準入力は UTF-8 ではありません" in done.err


@pytest.mark.parametrize("command", ["split", "demo"])
@pytest.mark.parametrize("name", ["gone.txt", ".", "[/x] :smile:.txt", "\x1b[31m", "b\udce9"])
def test_what_cannot_be_read_is_explained(
    command: str, name: str, run: Run, tmp_path: Path
) -> None:
    """A missing file or a folder, whatever its name: the reason, status 2, and no traceback."""
    done = run(command, tmp_path / name)
    assert (2, "") == (done.status, done.out)
    assert "cannot be read: " in done.err
    assert "読めません" in done.err
    assert ("Is a directory" if name == "." else "No such file") in done.err
    assert "Traceback" not in done.err
    assert "\x1b" not in done.err
    assert name.replace("\x1b", "\\x1b").replace("\udce9", "\\udce9") in f"{done.err}."


def test_a_file_without_permission_is_explained(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the system says is said, though root may read everything."""

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    for command in ("split", "demo"):
        done = run(command, tmp_path / "text.txt")
        assert 2 == done.status
        assert "cannot be read: Permission denied" in done.err


def test_a_closed_standard_input_is_explained() -> None:
    """Without any input there is nothing to read, and no traceback."""
    done = subprocess.run(
        [*MAIN, "split"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.close(0),
    )
    assert (2, "") == (done.returncode, done.stdout)
    assert "standard input cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_spans_are_lines_that_a_terminal_may_show(run: Run) -> None:
    """Whatever controls a terminal or ends a line is escaped as in JSON, and can be read back."""
    text = f"{TRICKS}。\u2028あ\u2029い\u0085う\x7fえ\u202eお。👨\u200d👩。"
    data = text.encode()
    printed = run("split", stdin=data)
    in_json = run("split", "--json", stdin=data)
    for done in (printed, in_json):
        assert (0, "") == (done.status, done.err)
        assert not set("\x1b\x07\x7f\x85\x9b\u2028\u2029\u202e") & set(done.out)
        assert done.out.count("\n") == len(done.out.splitlines())
        assert "👨\u200d👩" in done.out
        assert ":smile:" in done.out
    assert text == "".join(piece for _, _, piece in rows(in_json))
    pieces = [line.split("\t")[2] for line in printed.out.splitlines()]
    assert text == "".join(json.loads(f'"{piece}"') for piece in pieces)


@pytest.mark.parametrize("encoding", ["ascii", "cp932"])
def test_a_terminal_of_another_encoding_gets_what_it_can_show(encoding: str) -> None:
    """What standard output cannot say is escaped: still JSON, and no error."""
    done = subprocess.run(
        [*MAIN, "split", "--json"],
        input="春が来た。👨。".encode(),
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=False,
    )
    assert (0, b"") == (done.returncode, done.stderr)
    lines = done.stdout.decode(encoding).splitlines()
    assert ["春が来た。", "👨。"] == [json.loads(line)["text"] for line in lines]
    assert (encoding == "cp932") == ("春" in lines[0])


@pytest.mark.parametrize("sentences", [1, 20_000])
def test_whoever_reads_may_stop(sentences: int) -> None:
    """A pipe that is closed early, as by head, is no error: status 0, and not a word."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*MAIN, "split"],
        input=("春が来た。" * sentences).encode(),
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (0, b"") == (done.returncode, done.stderr)


@pytest.mark.model
@pytest.mark.usefixtures("offline_model_path")
def test_the_demo_shows_texts_names_and_questions_as_they_are(run: Run, tmp_path: Path) -> None:
    """Nothing in them is markup, an emoji or a command to the terminal."""
    path = tmp_path / "[bold]:smile:\x1b[31m.txt"
    path.write_text(f"{TRICKS}。春が来た。", encoding="utf-8")
    done = run("demo", path, "--question", TRICKS)
    assert 0 == done.status
    assert not set("\x1b\x07\x9b") & set(done.out)
    assert "[bold]:smile:\\x1b[31m.txt" in done.out
    for trick in SHOWN:
        assert 2 <= done.out.count(trick), trick  # as a title and as a passage


@pytest.mark.parametrize(
    "arguments",
    [["[/x]"], ["split", "--level", "[/x] :smile:"], ["split", "a", "[/x]"], ["demo", "--[/x]"]],
)
def test_wrong_arguments_are_named_as_they_are(arguments: list[str], run: Run) -> None:
    """What is typed wrongly is no markup either."""
    done = run(*arguments)
    assert 2 == done.status
    assert "[/x]" in done.err
    assert "☺" not in done.err
    assert "😄" not in done.err


@pytest.mark.parametrize("command", [MAIN, [sys.executable, "-m", "safe_embed"]])
def test_the_version_is_printed(command: list[str]) -> None:
    """The script and the module are the same command."""
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    assert (0, f"safe-embed {safe_embed.__version__}\n", "") == tuple(vars(done).values())[1:]


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["split", "--help"], ["demo", "--help"], ["split", "--levle"]]
)
@pytest.mark.parametrize("columns", ["20", "40", "80"])
def test_nothing_wraps_in_a_pipe(arguments: list[str], columns: str) -> None:
    """Help and errors have the same lines, however narrow the terminal is that is not there."""
    run = partial(subprocess.run, capture_output=True, text=True, check=False)
    narrow, wide = (
        run([*MAIN, *arguments], env={**os.environ, "COLUMNS": width}) for width in (columns, "999")
    )
    assert wide.stdout + wide.stderr
    assert (wide.stdout, wide.stderr) == (narrow.stdout, narrow.stderr)


@pytest.mark.parametrize("level", ["paragraph", "sentence", "clause"])
def test_a_level_of_morphemes_is_refused(level: str, run: Run) -> None:
    """It would have no effect: the message says so in both languages."""
    done = run("split", "--splitter", "morphemes", "--level", level, stdin=TEXT.encode())
    assert (2, "") == (done.status, done.out)
    assert "--level is for --splitter punctuation" in done.err
    assert "--level を外してください" in done.err
    assert ROWS[0] != rows(run("split", "--json", "--splitter", "morphemes", stdin=TEXT.encode()))


def test_each_prepared_question_has_its_answer_in_the_manual() -> None:
    """Once, and where a truncated embedding does not read."""
    pages = read_manual()
    questions = prepared_questions(pages)
    assert 8 == len(questions)
    for question in questions:
        assert question.span is not None
        text = pages[question.document or 0].text
        assert 1 == text.count(text[slice(*question.span)])
        assert question.span.start > 1200


@pytest.mark.parametrize(
    ("document", "span", "expected"),
    [
        (1, (0, 10), False),
        (1, (0, 11), True),
        (1, (12, 14), True),
        (1, (5, 90), True),
        (1, (19, 30), True),
        (1, (20, 30), False),
        (0, (10, 20), False),
    ],
)
def test_a_passage_answers_if_it_overlaps_the_answer(
    document: int, span: tuple[int, int], *, expected: bool
) -> None:
    """In the same document; a question whose answer nobody knows has no verdict."""
    hit = Hit(document, 0, Span(*span), 0.9)
    assert expected == is_answered(Question("どこ？", 1, Span(10, 20)), hit)
    assert is_answered(Question("どこ？"), hit) is None


@pytest.mark.model
@pytest.mark.usefixtures("offline_model_path")
def test_the_demo_says_which_way_was_right(run: Run, tmp_path: Path) -> None:
    """A mark for each way and a total where answers are known; one line a passage in a pipe."""
    path = tmp_path / "rules.txt"
    late = "図書館の休館日は毎週月曜日と年末年始の六日間で、電話での予約は受け付けておりません。"
    sentences = [f"{number}番目の春が来て、庭の花が咲いた。" for number in range(100)]
    sentences[72] = late  # the longest of those that a question is taken from
    path.write_text("".join(sentences), encoding="utf-8")
    done = run("demo", path)
    assert 0 == done.status
    assert "1 / 1   truncated 0 / 1" in done.out
    lines = done.out.splitlines()
    assert any(line.startswith("✓ safe_embed") for line in lines)
    assert any(line.startswith("✗ truncated") for line in lines)
    assert any(late in line for line in lines[1:])
    own = run("demo", path, "--question", "休館日はいつですか")
    assert 0 == own.status
    assert not set("✓✗") & set(own.out)
    assert "right" not in own.out
