"""The command ``safe-embed``: see it work, and see where a text would be cut."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from safe_embed.errors import SafeEmbedError

app = typer.Typer(
    help="Embed Japanese text safely. / 日本語の文章を安全に埋め込みます。",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    """Embed Japanese text safely. 日本語の文章を安全に埋め込みます."""


@app.command()
def demo(
    text: Annotated[
        list[Path] | None,
        typer.Option(help="UTF-8 files to ask instead of the manual; may be given again."),
    ] = None,
    more: Annotated[
        list[Path] | None, typer.Argument(help="Further files, after --text.", metavar="[FILE]...")
    ] = None,
    question: Annotated[
        list[str] | None,
        typer.Option(help="What to ask; may be given again. / 質問（繰り返し可）"),
    ] = None,
) -> None:
    """Answer questions from long Japanese documents. 長い文書から質問に答えます."""
    from safe_embed.demo import QUESTIONS, read_documents, read_manual, run, sample_questions

    paths = [*(text or ()), *(more or ())]
    documents = read_documents(paths) if paths else read_manual()
    if not question:
        question = sample_questions(documents) if paths else list(QUESTIONS)
    run(documents, question, Console(highlight=False))


@app.command()
def split(
    file: Annotated[
        typer.FileText, typer.Argument(help="A UTF-8 file; - for standard input.")
    ] = sys.stdin,  # type: ignore[assignment]  # typer's own idiom
    splitter: Annotated[
        Literal["punctuation", "morphemes"], typer.Option(help="Where a text may be cut.")
    ] = "punctuation",
    level: Annotated[
        Literal["paragraph", "sentence", "clause"],
        typer.Option(help="The finest cut of the punctuation splitter."),
    ] = "sentence",
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a span.")] = False,
) -> None:
    """Show where a text would be cut. 文章がどこで切られるかを表示します."""
    from safe_embed.text.morphemes import MorphemeSplitter
    from safe_embed.text.punctuation import PunctuationSplitter

    content = file.read()
    chosen = MorphemeSplitter() if splitter == "morphemes" else PunctuationSplitter(level)
    for start, end in chosen.split(content):
        piece = content[start:end]
        if as_json:
            row = {"start": start, "end": end, "text": piece}
            typer.echo(json.dumps(row, ensure_ascii=False))
        else:
            typer.echo(f"{start}\t{end}\t{json.dumps(piece, ensure_ascii=False)[1:-1]}")


def main() -> None:
    """Run the command; an error that safe_embed explains is shown without a traceback."""
    try:
        app()
    except SafeEmbedError as error:
        Console(stderr=True, highlight=False).print(f"safe-embed: {error}", markup=False)
        raise SystemExit(2) from None
