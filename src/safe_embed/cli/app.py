"""The command ``safe-embed``: ``demo`` answers questions, ``split`` shows where a text is cut.

``doctor`` says why a process grows, ``encode`` embeds files.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from safe_embed import __version__
from safe_embed.errors import ConfigError, SafeEmbedError, both

_STANDARD_INPUT = Path("-")
# Columns of what is no terminal: a pipe has lines, however long.
_NEVER_WRAPPED = 10_000

_Model = Annotated[str, typer.Option(help="Folder or name of a model.")]
_Encoder = Annotated[
    Literal["sentence-transformers", "safe-embed"], typer.Option(help="What embeds.")
]
_Target = Annotated[
    str | None,
    typer.Option(help="Function of your own to examine instead.", metavar="MODULE:FUNCTION"),
]
_Texts = Annotated[
    Path | None, typer.Option(help="UTF-8 file, a text in each line.", metavar="FILE")
]
_Calls = Annotated[int, typer.Option(help="Calls of each experiment, 200 or more.")]
_Budget = Annotated[float, typer.Option(help="Time for everything, in seconds.")]
_Device = Annotated[str | None, typer.Option(help="Device of the model.")]
_JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Write all figures.", metavar="FILE")
]
_Plot = Annotated[
    Path | None, typer.Option(help="Draw the curves: .svg, .png, .pdf.", metavar="FILE")
]
_FailOn = Annotated[
    Literal["growth"] | None, typer.Option(help="Exit with status 1 if something grows.")
]
_Log = Annotated[
    Path | None, typer.Option(help="Read a log of safe_embed.watch instead.", metavar="FILE")
]

_Input = Annotated[
    Path,
    typer.Argument(
        help="JSONL, CSV, TSV or Parquet file; folder of .txt and .md; - for standard input.",
        metavar="IN",
    ),
]
_Output = Annotated[
    Path, typer.Argument(help="File to write: .parquet, .jsonl or .npy.", metavar="OUT")
]
_Format = Annotated[
    Literal["jsonl", "csv", "tsv", "parquet", "folder"] | None,
    typer.Option(help="Format of IN; by its name if not given, of standard input jsonl."),
]
_Text = Annotated[str, typer.Option(help="Column of the texts.", metavar="COLUMN")]
_Id = Annotated[
    str | None,
    typer.Option(help="Column of the ids; id if it is there, else row numbers.", metavar="COLUMN"),
]
_Encoding = Annotated[
    Literal["utf-8", "cp932", "euc-jp"], typer.Option(help="Encoding of IN; never guessed.")
]
_Task = Annotated[
    Literal["document", "query", "none"], typer.Option(help="Whose prompt the texts get.")
]
_Chunks = Annotated[bool, typer.Option("--chunks", help="A row a chunk, with span and text.")]
_Tokens = Annotated[int | None, typer.Option(help="Tokens of a chunk at most.")]
_Calibration = Annotated[
    Path | None, typer.Option(help="Of Calibration.save, to pack chunks.", metavar="FILE")
]
_Bits = Annotated[int, typer.Option(help="Of a dimension: 1 or 8 with --calibration.")]
_Normalize = Annotated[bool, typer.Option("--normalize", help="Scale vectors to length 1.")]
_Dtype = Annotated[
    Literal["auto"] | None, typer.Option(help="auto: bfloat16 where it is faster and as good.")
]
_Splitter = Annotated[
    Literal["punctuation", "morphemes"], typer.Option(help="Where a text may be cut.")
]
_Pooling = Annotated[
    Literal["mean", "token_weighted", "max"], typer.Option(help="Of the chunks of a long text.")
]
_Isolation = Annotated[
    Literal["none", "process"], typer.Option(help="process: the model in a process of its own.")
]
_Resume = Annotated[bool, typer.Option("--resume", help="Go on where a run was broken off.")]
_Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first bad row.")]
_PartRows = Annotated[int, typer.Option(help="Rows that are saved at a time.")]

app = typer.Typer(
    help="Embed Japanese text safely. / 日本語の文章を安全に埋め込みます。",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # rich would wrap help and errors in a pipe, too
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 typer passes it so
    """Print the version and end, if that is asked for."""
    if wanted:
        typer.echo(f"safe-embed {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[  # its callback does the work
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Embed Japanese text safely. 日本語の文章を安全に埋め込みます."""


@app.command()
def demo(
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="UTF-8 file to search instead of the manual; repeatable.", metavar="FILE"
        ),
    ] = None,
    more: Annotated[
        list[Path] | None, typer.Argument(help="More files to search.", metavar="FILE")
    ] = None,
    question: Annotated[
        list[str] | None,
        typer.Option(help="Question to ask; repeatable. / 質問（繰り返し可）", metavar="TEXT"),
    ] = None,
) -> None:
    """Answer questions from long Japanese documents / 長い文書から質問に答えます."""
    from safe_embed.cli import demo as room
    from safe_embed.cli.files import read_documents

    paths = [*(text or ()), *(more or ())]
    with _explained():
        documents = read_documents(paths) if paths else room.read_manual()
        prepared = room.sample_questions if paths else room.prepared_questions
        questions = list(map(room.Question, question or ())) or prepared(documents)
        room.run(documents, questions, _Console(highlight=False))


@app.command()
def split(
    file: Annotated[
        Path, typer.Argument(help="A UTF-8 file; - for standard input.", metavar="FILE")
    ] = _STANDARD_INPUT,
    splitter: Annotated[
        Literal["punctuation", "morphemes"], typer.Option(help="Where a text may be cut.")
    ] = "punctuation",
    level: Annotated[
        Literal["paragraph", "sentence", "clause"] | None,
        typer.Option(help="The finest cut of --splitter punctuation; sentence if not given."),
    ] = None,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per span.")
    ] = False,
) -> None:
    """Show where a text would be cut / 文章がどこで切られるかを表示します."""
    from safe_embed.cli.files import read_text
    from safe_embed.text.morphemes import MorphemeSplitter
    from safe_embed.text.punctuation import PunctuationSplitter

    with _explained():
        content = read_text(None if file == _STANDARD_INPUT else file)
        if splitter == "morphemes" and level is not None:
            raise ConfigError(
                both(
                    "--level is for --splitter punctuation; morphemes has one level, bunsetsu. "
                    "Leave --level out.",
                    "--level は --splitter punctuation のときだけ使えます。morphemes の切れ目は"
                    "文節だけです。--level を外してください。",
                )
            )
        use_morphemes = splitter == "morphemes"
        chosen = MorphemeSplitter() if use_morphemes else PunctuationSplitter(level or "sentence")
        for start, end in chosen.split(content):
            piece = content[start:end]
            if as_json:
                typer.echo(_json({"start": start, "end": end, "text": piece}))
            else:
                typer.echo(f"{start}\t{end}\t{_json(piece)[1:-1]}")


@app.command()
def doctor(
    model: _Model = "offline",
    encoder: _Encoder = "sentence-transformers",
    target: _Target = None,
    texts: _Texts = None,
    calls: _Calls = 2000,
    budget: _Budget = 180.0,
    device: _Device = None,
    json_file: _JsonFile = None,
    plot: _Plot = None,
    fail_on: _FailOn = None,
    log: _Log = None,
) -> None:
    """Say why a process grows / プロセスのメモリが増える原因を調べます."""
    with _explained():
        from safe_embed.cli import doctor as room

        console = _Console(highlight=False)
        if log is not None:
            room.refuse_with_log(target, texts, device, None if model == "offline" else model)
            grows = room.examine_log(log, console, json_file=json_file, plot=plot)
        else:
            grows = room.examine(
                console,
                texts=texts,
                json_file=json_file,
                plot=plot,
                model=model,
                encoder=encoder,
                target=target,
                calls=calls,
                budget_seconds=budget,
                device=device,
            )
    if grows and fail_on == "growth":
        raise typer.Exit(1)


@app.command()
def encode(
    source: _Input,
    output: _Output,
    model: _Model = "offline",
    input_format: _Format = None,
    text: _Text = "text",
    id: _Id = None,  # noqa: A002 the name of the option
    encoding: _Encoding = "utf-8",
    task: _Task = "document",
    max_chunk_tokens: _Tokens = None,
    calibration: _Calibration = None,
    bits: _Bits = 32,
    device: _Device = None,
    dtype: _Dtype = None,
    splitter: _Splitter = "punctuation",
    pooling: _Pooling = "mean",
    isolation: _Isolation = "none",
    rows_per_part: _PartRows = 1000,
    *,
    chunks: _Chunks = False,
    normalize: _Normalize = False,
    resume: _Resume = False,
    strict: _Strict = False,
) -> None:
    """Embed a file into a file, resumable / ファイルを埋め込みます（再開できます）."""
    given = locals()
    with _explained():
        from safe_embed.cli import encode as room
        from safe_embed.jobs.job import Job

        status = room.encode(Job(**given))
    raise typer.Exit(status)


class _Console(Console):
    """A console that raises BrokenPipeError, where rich would end the process."""

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError, which the command handles."""
        raise BrokenPipeError


@contextmanager
def _explained() -> Iterator[None]:
    """Turn a SafeEmbedError into a message and exit status 2, and a closed pipe into status 0."""
    from safe_embed.cli.files import shown

    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except SafeEmbedError as error:
        lines = map(shown, f"safe-embed: {error}".split("\n"))
        typer.echo("\n".join(lines), err=True)
        raise typer.Exit(2) from None
    except BrokenPipeError:
        # Else Python would flush the buffer at exit, fail, and print an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None


def _json(value: object) -> str:
    """Return JSON without control characters, in ASCII if standard output cannot encode it."""
    from safe_embed.cli.files import UNSHOWABLE

    text = json.dumps(value, ensure_ascii=False)
    text = UNSHOWABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def main() -> None:
    """Run the command with the arguments of the process."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # escape what its encoding lacks, do not fail
        sys.stdout.reconfigure(errors="backslashreplace")
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    app(terminal_width=None if is_terminal else _NEVER_WRAPPED)
