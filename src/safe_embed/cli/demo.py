"""The command ``safe-embed demo``: index documents, ask questions, compare with truncation."""

from __future__ import annotations

import codecs
import errno
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from safe_embed.encoder import SafeEncoder
from safe_embed.errors import InvalidTextError
from safe_embed.memory.sampling import anonymous_bytes
from safe_embed.text.punctuation import PunctuationSplitter
from safe_embed.types import ChunkedText, FloatArray, Span, TextPlan

MODEL = "offline"
# Short passages give the best search results. Source: docs/ja/truncation.md.
PASSAGE_TOKENS = 120

# The answer to each is in the later part of a page of the manual.
QUESTIONS = (
    "利用者が間違えて長文を貼り付けたら、エラーにできますか",
    "データベースの列が768次元で、モデルは384次元です。どうすれば入りますか",
    "要素ごとの最大を取るまとめ方は検索に使えますか",
    "メールのように一定の幅で折り返してある文章は、どう設定すればいい？",
    "かぎかっこを閉じ忘れた原稿は、どこまでが一つの塊になりますか",
    "芸名に句点が入っている人は、どう扱われますか",
    "モデルを del してもメモリが空かないのはなぜですか",
    "Mac の GPU で動かすと太るのは何のせいでしょう",
)

# Control characters (U+009B too starts a terminal command), line separators, characters that change
# the direction of text, and lone surrogates, which no encoding can write.
UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_BYTE_ORDER_MARKS = (
    *((mark, "UTF-32") for mark in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)),
    *((mark, "UTF-16") for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)),
)


@dataclass(frozen=True, slots=True)
class Document:
    """A text to search, and its file name."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Hit:
    """The best passage for a question: index of its document, span in it, cosine similarity."""

    document: int
    span: Span
    score: float


def shown(text: object) -> str:
    r"""Escape what would control a terminal or end a line in a user's text.

    >>> print(shown("\x1b[31m赤"))
    \x1b[31m赤

    Args:
        text: A text, or a path.

    Returns:
        The text with the characters of :data:`UNSHOWABLE` escaped as in Python.
    """
    return UNSHOWABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def read_text(path: Path | None, index: int | None = None) -> str:
    """Read a UTF-8 file or standard input, without a byte order mark.

    Args:
        path: The file; ``None`` for standard input.
        index: Index among several files, for the error.

    Returns:
        The text; all its line breaks are line feeds.

    Raises:
        InvalidTextError: If the file cannot be read, or is not UTF-8.
    """
    name, name_ja = ("standard input", "標準入力")
    if path is not None:
        name, name_ja = shown(path), f"{shown(path)} "
    try:
        data = _read_bytes(path)
    except OSError as error:
        msg = (
            f"{name} cannot be read: {error.strerror}. Give a UTF-8 text file.\n"
            f"{name_ja}を読めません。UTF-8 のテキストファイルを指定してください。"
        )
        raise InvalidTextError(msg, index) from error
    body = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        position = len(data) - len(body) + error.start
        command = f"iconv -f {_guess_encoding(data)} -t UTF-8"
        msg = (
            f"{name} is not UTF-8 (byte {position}). Convert it: {command}.\n"
            f"{name_ja}は UTF-8 ではありません。{command} などで変換してください。"
        )
        raise InvalidTextError(msg, index, position) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_bytes(path: Path | None) -> bytes:
    """Return the bytes of a file or of standard input; OSError if it cannot be read."""
    if path is not None:
        return path.read_bytes()
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    return sys.stdin.buffer.read()


def _guess_encoding(data: bytes) -> str:
    """Return the likely encoding of a text that is not UTF-8, by its name in iconv."""
    for mark, name in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return name
    try:
        data.decode("euc_jp")
    except UnicodeDecodeError:  # as Shift_JIS nearly always does
        return "CP932"
    return "EUC-JP"


def read_documents(paths: Sequence[Path]) -> list[Document]:
    """Read UTF-8 files.

    Args:
        paths: The files.

    Returns:
        The text and name of each file, in order.

    Raises:
        InvalidTextError: If a file cannot be read, is blank or not UTF-8.
    """
    documents: list[Document] = []
    for index, path in enumerate(paths):
        text = read_text(path, index)
        if not text.strip():
            msg = (
                f"{shown(path)} contains no text. Give a UTF-8 text file.\n"
                f"{shown(path)} には文章がありません。UTF-8 のテキストファイルを指定してください。"
            )
            raise InvalidTextError(msg, index)
        documents.append(Document(path.name, text))
    return documents


def read_manual() -> list[Document]:
    """Read the Japanese manual from the installed package or from the repository.

    Returns:
        Its pages, longest first, with placeholders replaced by figures: {{ questions }} -> 300.
    """
    packaged = Path(str(files("safe_embed") / "manual"))
    folder = packaged if packaged.is_dir() else Path(__file__).parents[3] / "docs" / "ja"
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    pages = [page for page in sorted(folder.glob("*.md")) if page.stem != "index"]
    pages.sort(key=lambda page: -page.stat().st_size)
    return [
        Document(page.name, re.sub(r"{{ (\w+) }}", lambda match: figures[match[1]], page.text))
        for page in read_documents(pages)
    ]


def sample_questions(documents: Sequence[Document], most: int = 8) -> list[str]:
    """Take a sentence from the later part of each document, for use as a question.

    Args:
        documents: The documents to search.
        most: Largest number of sentences.

    Returns:
        One sentence of each of the first *most* documents.
    """
    sentences: list[str] = []
    for document in documents[:most]:
        spans = PunctuationSplitter().split(document.text)
        late = spans[len(spans) * 7 // 10 :] or spans
        start, end = max(late[:10], key=lambda span: min(span.end - span.start, 60))
        sentences.append(document.text[start:end].strip())
    return sentences


def best_passage(question: FloatArray, indexed: Sequence[ChunkedText]) -> Hit:
    """Find the passage whose vector is nearest to the vector of a question.

    Args:
        question: A unit vector, shape (dimension,).
        indexed: The chunks of each document, with unit vectors.

    Returns:
        The best passage of all documents.
    """
    hits = []
    for number, document in enumerate(indexed):
        scores = document.vectors @ question
        best = int(scores.argmax())
        hits.append(Hit(number, document.spans[best], float(scores[best])))
    return max(hits, key=lambda hit: hit.score)


def run(documents: Sequence[Document], questions: Sequence[str], console: Console) -> None:
    """Index documents, answer questions, and show what search with truncated texts finds.

    Args:
        documents: The documents to search.
        questions: The questions to answer.
        console: The console to print to.
    """
    texts = [document.text for document in documents]
    before = anonymous_bytes()
    with console.status("モデルを準備しています / preparing the model …"):
        encoder = SafeEncoder(MODEL, max_chunk_tokens=PASSAGE_TOKENS)
    with encoder:
        started = time.perf_counter()
        indexed = encoder.encode_chunks(
            texts, prompt_name="document", normalize_embeddings=True, show_progress_bar=True
        )
        seconds = time.perf_counter() - started
        question_vectors = encoder.encode_query(list(questions), normalize_embeddings=True)
        after = anonymous_bytes()
    with console.status("比較のため、切り捨てたベクトルを作っています / truncated, to compare …"):
        plans, truncated = _embed_truncated(texts)
    for question, vector in zip(questions, question_vectors, strict=True):
        hit = best_passage(vector, indexed)
        scores = truncated @ vector
        console.print(_answer(question, hit, documents, plans, scores))
    tokens = sum(sum(document.token_counts) for document in indexed)
    summary = _summary(indexed, tokens / seconds, before, after)
    console.print(Text(summary), soft_wrap=True)


def _embed_truncated(texts: list[str]) -> tuple[list[TextPlan], FloatArray]:
    """Return plans and vectors of texts truncated at the model's limit, as upstream does it."""
    with SafeEncoder(MODEL, on_long="truncate") as encoder:
        vectors = encoder.encode_document(texts, normalize_embeddings=True)
        return encoder.plan(texts, prompt_name="document"), np.asarray(vectors)


def _answer(
    question: str,
    hit: Hit,
    documents: Sequence[Document],
    plans: Sequence[TextPlan],
    scores: FloatArray,
) -> Panel:
    """Show the best passage beside the document that truncated vectors rank first."""
    document = documents[hit.document]
    start, end = hit.span
    other = int(scores.argmax())
    seen = plans[other].spans[0].end
    total = len(documents[other].text)
    table = Table.grid(padding=(0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    # Text is not parsed as markup: brackets in texts, names and questions are printed unchanged.
    table.add_row(
        "safe_embed", Text(f"{shown(document.name)} [{start}:{end}]  score {hit.score:.3f}")
    )
    table.add_row("", Text(shown(" ".join(document.text[start:end].split()))))
    name = shown(documents[other].name)
    table.add_row("truncated", Text(f"{name}  score {scores[other]:.3f}  (0:{seen} / {total} 字)"))
    missed = other != hit.document or seen <= start
    note = (
        "この箇所は読まれていません / never read this passage" if missed else "ここまでは読めました"
    )
    table.add_row("", note)
    return Panel(table, title=Text(shown(question)), title_align="left")


def _summary(
    indexed: Sequence[ChunkedText], rate: float, before: int | None, after: int | None
) -> str:
    """Return counts, speed in tokens per second, and memory before and after in MiB."""
    chunks = sum(len(document.spans) for document in indexed)
    memory = " → ".join(
        "-" if size is None else f"{size / 2**20:,.0f} MiB" for size in (before, after)
    )
    return (
        f"文書 documents: {len(indexed)}   断片 chunks: {chunks}   "
        f"速さ tokens/s: {rate:,.0f}   RssAnon: {memory}"
    )
