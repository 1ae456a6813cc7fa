"""The command ``safe-embed demo``: index documents, ask questions, compare with truncation."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from safe_embed.cli.files import Document, read_documents, shown
from safe_embed.encoder import SafeEncoder
from safe_embed.memory.sampling import anonymous_bytes
from safe_embed.memory.sizes import format_mib
from safe_embed.packaged_manual import manual_folder
from safe_embed.search.ranking import Hit, rank
from safe_embed.text.punctuation import PunctuationSplitter
from safe_embed.types import ChunkedText, FloatArray, Span, TextPlan

MODEL = "offline"
# Short passages give the best search results. Source: docs/ja/truncation.md.
PASSAGE_TOKENS = 120

# Question, page of the manual, and the sentence there that holds the answer. All answers are in the
# later part of a page, which a truncated embedding has not read.
PREPARED = (
    (
        "利用者が間違えて長文を貼り付けたら、エラーにできますか",
        "truncation.md",
        '質問文の側に `"error"` を使うのは良い習慣です。',
    ),
    (
        "データベースの列が768次元で、モデルは384次元です。どうすれば入りますか",
        "truncation.md",
        "モデルの次元と列の幅が合わないときは、`pad_to_dim` を使ってください。",
    ),
    (
        "要素ごとの最大を取るまとめ方は検索に使えますか",
        "truncation.md",
        "このモデルの検索には使わないでください。",
    ),
    (
        "メールのように一定の幅で折り返してある文章は、どう設定すればいい？",
        "splitting.md",
        "幅がほぼそろい、印なしで終わる行が続くときは折り返しとみなし、文の途中では切りません。",
    ),
    (
        "かぎかっこを閉じ忘れた原稿は、どこまでが一つの塊になりますか",
        "splitting.md",
        "相手のいない括弧は、何も守りません。",
    ),
    (
        "芸名に句点が入っている人は、どう扱われますか",
        "splitting.md",
        "「モー娘。」の句点は名前の一部です。",
    ),
    (
        "モデルを del してもメモリが空かないのはなぜですか",
        "growth.md",
        "`del model` と `gc.collect()` のあと、",
    ),
    (
        "Mac の GPU で動かすと太るのは何のせいでしょう",
        "growth.md",
        "事件にいちばんよく合うのはこの説明です。",
    ),
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question; if its answer is known, the index of the document and the span that answer it."""

    text: str
    document: int | None = None
    span: Span | None = None


def read_manual() -> list[Document]:
    """Read the Japanese manual from the installed package or from the repository.

    Returns:
        Its pages, longest first, with placeholders replaced by figures: {{ questions }} -> 300.
    """
    folder = manual_folder()
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    pages = [page for page in sorted(folder.glob("*.md")) if page.stem != "index"]
    pages.sort(key=lambda page: -page.stat().st_size)
    return [
        Document(page.name, re.sub(r"{{ (\w+) }}", lambda match: figures[match[1]], page.text))
        for page in read_documents(pages)
    ]


def prepared_questions(documents: Sequence[Document]) -> list[Question]:
    """Find the answers to the prepared questions.

    Args:
        documents: The pages of the manual.

    Returns:
        The questions with their answers.
    """
    names = [document.name for document in documents]
    questions = []
    for text, page, answer in PREPARED:
        number = names.index(page)
        start = documents[number].text.index(answer)
        questions.append(Question(text, number, Span(start, start + len(answer))))
    return questions


def sample_questions(documents: Sequence[Document], most: int = 8) -> list[Question]:
    """Take a sentence from the later part of each document, for use as a question.

    Args:
        documents: The documents to search.
        most: Largest number of sentences.

    Returns:
        One sentence of each of the first *most* documents; it is its own answer.
    """
    questions: list[Question] = []
    for number, document in enumerate(documents[:most]):
        spans = PunctuationSplitter().split(document.text)
        late = spans[len(spans) * 7 // 10 :] or spans
        span = max(late[:10], key=lambda span: min(span.end - span.start, 60))
        questions.append(Question(document.text[slice(*span)].strip(), number, span))
    return questions


def run(documents: Sequence[Document], questions: Sequence[Question], console: Console) -> None:
    """Index documents, answer questions, and show what search with truncated texts finds.

    Args:
        documents: The documents to search.
        questions: The questions to answer.
        console: The console to print to.
    """
    texts = [document.text for document in documents]
    with console.status("モデルを準備しています / preparing the model …"):
        encoder = SafeEncoder(MODEL, max_chunk_tokens=PASSAGE_TOKENS)
    with encoder:
        loaded = anonymous_bytes()
        started = time.perf_counter()
        indexed = encoder.encode_chunks(
            texts,
            prompt_name="document",
            normalize_embeddings=True,
            show_progress_bar=sys.stderr is not None and sys.stderr.isatty(),
        )
        seconds = time.perf_counter() - started
        asked = [question.text for question in questions]
        question_vectors = encoder.encode_query(asked, normalize_embeddings=True)
        after = anonymous_bytes()
    with console.status("比較のため、切り捨てたベクトルを作っています / truncated, to compare …"):
        plans, truncated = _embed_truncated(texts)
    verdicts = []
    found = rank(question_vectors, indexed, 1)
    for question, vector, [hit] in zip(questions, question_vectors, found, strict=True):
        scores = truncated @ vector
        other = int(scores.argmax())
        read = Hit(other, 0, plans[other].spans[0], float(scores[other]))
        verdicts.append((is_answered(question, hit), is_answered(question, read)))
        _print_answer(console, documents, question, hit, read)
    tokens = sum(sum(document.token_counts) for document in indexed)
    summary = [*_totals(verdicts), *_figures(indexed, tokens / seconds, loaded, after)]
    console.print(Text("\n".join(summary)), soft_wrap=True)


def is_answered(question: Question, hit: Hit) -> bool | None:
    """Tell whether a passage holds the answer to a question, or its beginning.

    Args:
        question: The question.
        hit: A passage of a document.

    Returns:
        Whether it does; ``None`` if the answer is not known.
    """
    if question.span is None:
        return None
    is_there = hit.span.start < question.span.end and question.span.start < hit.span.end
    return is_there and hit.document == question.document


def _embed_truncated(texts: list[str]) -> tuple[list[TextPlan], FloatArray]:
    """Return plans and vectors of texts truncated at the model's limit, as upstream does it."""
    with SafeEncoder(MODEL, on_long="truncate") as encoder:
        vectors = encoder.encode_document(texts, normalize_embeddings=True)
        return encoder.plan(texts, prompt_name="document"), np.asarray(vectors)


def _print_answer(
    console: Console, documents: Sequence[Document], question: Question, hit: Hit, read: Hit
) -> None:
    """Print the best passage beside the document that truncated vectors rank first.

    A panel on a terminal; elsewhere one line each, however long, for grep and the like.
    """
    document, other = documents[hit.document], documents[read.document]
    start, end = hit.span
    ours, theirs = (_mark(is_answered(question, each)) for each in (hit, read))
    missed = read.document != hit.document or read.span.end <= start
    note = (
        "この箇所は読まれていません / never read this passage"
        if missed
        else "ここまでは読めました / has read this passage"
    )
    # Text is not parsed as markup: brackets in texts, names and questions are printed unchanged.
    title = f"{shown(other.name)}  score {read.score:.3f}"
    rows = [
        (f"{ours}safe_embed", f"{shown(document.name)} [{start}:{end}]  score {hit.score:.3f}"),
        ("", shown(" ".join(document.text[start:end].split()))),
        (f"{theirs}truncated", f"{title}  (0:{read.span.end} / {len(other.text)} 字)"),
        ("", note),
    ]
    if not console.is_terminal:
        lines = [shown(question.text), *(f"{label or ' ':<12} {text}" for label, text in rows), ""]
        console.print(Text("\n".join(lines)), soft_wrap=True)
        return
    table = Table.grid(padding=(0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(label, Text(text))
    console.print(Panel(table, title=Text(shown(question.text)), title_align="left"))


def _mark(is_right: bool | None) -> str:  # noqa: FBT001 it is the value that is formatted
    """Return the mark of a verdict, and a space; nothing where the answer is not known."""
    return "" if is_right is None else "✓ " if is_right else "✗ "


def _totals(verdicts: Sequence[tuple[bool | None, bool | None]]) -> list[str]:
    """Return the line that says how many questions each way has answered; none if unknown."""
    known = [verdict for verdict in verdicts if None not in verdict]
    if not known:
        return []
    ours, theirs = (sum(map(bool, column)) for column in zip(*known, strict=True))
    count = len(known)
    return [f"正解 right: safe_embed {ours} / {count}   truncated {theirs} / {count}"]


def _figures(
    indexed: Sequence[ChunkedText], rate: float, loaded: int | None, after: int | None
) -> list[str]:
    """Return the lines of counts, speed in tokens per second, and memory in MiB."""
    chunks = sum(len(document.spans) for document in indexed)
    memory = [format_mib(size) for size in (loaded, after)]
    return [
        f"文書 documents: {len(indexed)}   断片 chunks: {chunks}   速さ tokens/s: {rate:,.0f}",
        f"メモリ RssAnon: 読み込み後 after the load {memory[0]} → 終了時 at the end {memory[1]}",
    ]
