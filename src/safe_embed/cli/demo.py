"""What ``safe-embed demo`` does: index documents, ask questions, compare with truncation."""

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
# Short passages answer best. Source: docs/ja/truncation.md.
PASSAGE_TOKENS = 120

# Each is answered in the later part of a page of the manual.
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

# What steers a terminal (also by one byte, as U+009B), turns its lines around or ends them, and
# halves of surrogate pairs, which no encoding can write.
UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MARKS = (
    *((mark, "UTF-32") for mark in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)),
    *((mark, "UTF-16") for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)),
)


@dataclass(frozen=True, slots=True)
class Document:
    """A text and its name."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Hit:
    """The best passage for a question: which document, where in it, how near."""

    document: int
    span: Span
    score: float


def shown(text: object) -> str:
    r"""Write a text of the user's so that it can neither steer a terminal nor end a line.

    >>> print(shown("\x1b[31m赤"))
    \x1b[31m赤

    Args:
        text: Any text, or the path of a file.

    Returns:
        The text with control characters and the like escaped.
    """
    return UNSHOWABLE.sub(lambda one: one[0].encode("unicode_escape").decode(), str(text))


def read_text(path: Path | None, index: int | None = None) -> str:
    """Read a UTF-8 file, or standard input; a byte order mark is no part of the text.

    Args:
        path: The file; ``None`` for standard input.
        index: Which of several files, for the error.

    Returns:
        Its text; all its lines end in a line feed.

    Raises:
        InvalidTextError: If it cannot be read, or is not UTF-8.
    """
    name, name_ja = ("standard input", "標準入力")
    if path is not None:
        name, name_ja = shown(path), f"{shown(path)} "
    try:
        data = _read_bytes(path)
    except OSError as error:
        msg = (
            f"{name} cannot be read: {error.strerror}. Name a UTF-8 text file.\n"
            f"{name_ja}を読めません。UTF-8 のテキストファイルを指定してください。"
        )
        raise InvalidTextError(msg, index) from error
    body = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        at = len(data) - len(body) + error.start
        how = f"iconv -f {_encoding(data)} -t UTF-8"
        msg = (
            f"{name} is not UTF-8 (byte {at}). Convert it: {how}.\n"
            f"{name_ja}は UTF-8 ではありません。{how} などで変換してください。"
        )
        raise InvalidTextError(msg, index, at) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_bytes(path: Path | None) -> bytes:
    if path is not None:
        return path.read_bytes()
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    return sys.stdin.buffer.read()


def _encoding(data: bytes) -> str:
    """Guess what else than UTF-8 a text may be in, as iconv names it."""
    for mark, name in _MARKS:
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
        Their texts under their names.

    Raises:
        InvalidTextError: If a file is missing, empty or not UTF-8.
    """
    documents: list[Document] = []
    for index, path in enumerate(paths):
        text = read_text(path, index)
        if not text.strip():
            msg = (
                f"{shown(path)} holds no text. Name a UTF-8 text file.\n"
                f"{shown(path)} には文章がありません。UTF-8 のテキストファイルを指定してください。"
            )
            raise InvalidTextError(msg, index)
        documents.append(Document(path.name, text))
    return documents


def read_manual() -> list[Document]:
    """Read the Japanese manual, from the installed package or the repository that it runs from.

    Returns:
        Its pages, longest first, with the figures that they name: {{ questions }} -> 300.
    """
    packaged = Path(str(files("safe_embed") / "manual"))
    folder = packaged if packaged.is_dir() else Path(__file__).parents[2] / "docs" / "ja"
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    pages = [page for page in sorted(folder.glob("*.md")) if page.stem != "index"]
    pages.sort(key=lambda page: -page.stat().st_size)
    return [
        Document(one.name, re.sub(r"{{ (\w+) }}", lambda name: figures[name[1]], one.text))
        for one in read_documents(pages)
    ]


def sample_questions(documents: Sequence[Document], most: int = 8) -> list[str]:
    """Take a sentence from the later part of each document, where none was asked.

    Args:
        documents: What will be searched.
        most: How many at most.

    Returns:
        One sentence a document.
    """
    found: list[str] = []
    for document in documents[:most]:
        spans = PunctuationSplitter().split(document.text)
        late = spans[len(spans) * 7 // 10 :] or spans
        start, end = max(late[:10], key=lambda span: min(span.end - span.start, 60))
        found.append(document.text[start:end].strip())
    return found


def best_passage(question: FloatArray, indexed: Sequence[ChunkedText]) -> Hit:
    """Find the passage whose vector is nearest to a question's.

    Args:
        question: A unit vector, shape (dimension,).
        indexed: The documents as chunks with unit vectors.

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
    """Index documents, answer questions, and show what truncation would have found.

    Args:
        documents: What to search.
        questions: What to ask.
        console: Where to print.
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
        asked = encoder.encode_query(list(questions), normalize_embeddings=True)
        after = anonymous_bytes()
    with console.status("比較のため、切り捨てたベクトルを作っています / truncated, to compare …"):
        plans, truncated = _truncated(texts)
    for question, vector in zip(questions, asked, strict=True):
        hit = best_passage(vector, indexed)
        scores = truncated @ vector
        console.print(_answer(question, hit, documents, plans, scores))
    tokens = sum(sum(one.token_counts) for one in indexed)
    summary = _summary(indexed, tokens / seconds, before, after)
    console.print(Text(summary), soft_wrap=True)


def _truncated(texts: list[str]) -> tuple[list[TextPlan], FloatArray]:
    """Embed texts as sentence-transformers does: cut at the model's limit."""
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
    found = documents[hit.document]
    start, end = hit.span
    other = int(scores.argmax())
    seen = plans[other].spans[0].end
    total = len(documents[other].text)
    table = Table.grid(padding=(0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    # In a Text nothing is markup: what stands in texts, names and questions is shown as it is.
    table.add_row("safe_embed", Text(f"{shown(found.name)} [{start}:{end}]  score {hit.score:.3f}"))
    table.add_row("", Text(shown(" ".join(found.text[start:end].split()))))
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
    chunks = sum(len(one.spans) for one in indexed)
    memory = " → ".join(
        "-" if size is None else f"{size / 2**20:,.0f} MiB" for size in (before, after)
    )
    return (
        f"文書 documents: {len(indexed)}   断片 chunks: {chunks}   "
        f"速さ tokens/s: {rate:,.0f}   RssAnon: {memory}"
    )
