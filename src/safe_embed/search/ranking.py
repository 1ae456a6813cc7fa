"""Which chunks answer a query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import shown
from safe_embed.search.checks import checked_rows
from safe_embed.search.index import Chunked, ChunkIndex, Scores
from safe_embed.types import ChunkedText, FloatArray, Span
from safe_embed.vectors import normalize

# Scores that are held at once: 64 MB.
_MOST_SCORES = 2**24
# Documents that are scored again with whole vectors, for each that is wanted.
_CANDIDATES_PER_HIT = 10


class Hit(NamedTuple):
    """A chunk that answers a query.

    Attributes:
        document: The number of its document.
        chunk: Its number in the document.
        span: Where it lies in the text of the document.
        score: The cosine of query and chunk, or what packed vectors tell of it.
    """

    document: int
    chunk: int
    span: Span
    score: float


def rank(  # noqa: PLR0913 what a caller may choose
    query_vectors: Any,
    chunked: ChunkIndex | Iterable[Chunked],
    top_k: int = 10,
    *,
    best_per_document: bool = True,
    rescore: Sequence[ChunkedText] | None = None,
    candidates: int | None = None,
) -> list[list[Hit]]:
    """Find the chunks that are nearest to queries.

    Args:
        query_vectors: What ``encode_query`` gives, shape (n_queries, dimension) or (dimension,).
        chunked: What ``encode_chunks`` gives, packed or not. A ChunkIndex of it is faster if it is
            searched more than once.
        top_k: How many hits a query has at most.
        best_per_document: Whether a document is named once, with its best chunk; otherwise any of
            its chunks may be a hit.
        rescore: The same documents with whole vectors, by whose scores the best hits of packed ones
            are ranked again. Anything that gives a ChunkedText by the number of a document will do,
            such as an object that reads it from a file.
        candidates: How many documents are scored again; ``None`` for ten times *top_k*.

    Returns:
        For each query a list of hits, the best first; of equal scores the first document. One list
        for a single vector, too, as ``sentence_transformers.util.semantic_search``.

    Raises:
        ConfigError: If queries and documents do not fit together, or an argument cannot work.
    """
    _check_count("top_k", top_k)
    _check_count("candidates", top_k if candidates is None else candidates)
    index = chunked if isinstance(chunked, ChunkIndex) else ChunkIndex(chunked)
    queries = normalize(checked_rows("query_vectors", query_vectors, index.dimension))
    if rescore is None:
        return [hits for _, hits in _nearest(queries, index, top_k, best=best_per_document)]
    _checked_whole(rescore, index)
    wanted = _CANDIDATES_PER_HIT * top_k if candidates is None else max(candidates, top_k)
    return [
        _rescored(query, [hit.document for hit in hits], rescore, top_k, best=best_per_document)
        for query, hits in _nearest(queries, index, wanted, best=True)
    ]


def _nearest(
    queries: FloatArray, index: ChunkIndex, top_k: int, *, best: bool
) -> Iterator[tuple[FloatArray, list[Hit]]]:
    """Give the hits of each query, some queries at a time."""
    portion = max(1, _MOST_SCORES // max(1, index.n_chunks))
    for first in range(0, len(queries), portion):
        some = queries[first : first + portion]
        scores = index.scores(some)
        for query, values in zip(some, scores.values, strict=True):
            yield (
                query,
                [_hit(index, scores, values, at) for at in _top(scores, values, top_k, best=best)],
            )


def _top(scores: Scores, values: FloatArray, top_k: int, *, best: bool) -> list[int]:
    """Return the numbers of the best chunks."""
    if not best or not len(values):
        return _largest(values, top_k)
    of_documents = np.maximum.reduceat(values, scores.starts)
    ends = np.append(scores.starts[1:], len(values))
    return [
        int(scores.starts[at] + values[scores.starts[at] : ends[at]].argmax())
        for at in _largest(of_documents, top_k)
    ]


def _largest(values: NDArray[Any], count: int) -> list[int]:
    """Return the indices of the largest values, the largest first; of equal ones the first."""
    if count < len(values):
        least = np.partition(values, -count)[-count]
        # Of those that equal the least, the first; those above it are fewer than wanted.
        above, equal = np.flatnonzero(values > least), np.flatnonzero(values == least)
        kept = np.sort(np.concatenate([above, equal[: count - len(above)]]))
    else:
        kept = np.arange(len(values))
    order: list[int] = kept[np.argsort(-values[kept], kind="stable")].tolist()
    return order


def _hit(index: ChunkIndex, scores: Scores, values: FloatArray, at: int) -> Hit:
    document = int(np.searchsorted(scores.starts, at, side="right")) - 1
    return Hit(document, at - int(scores.starts[document]), index.span(at), float(values[at]))


def _rescored(
    query: FloatArray, documents: list[int], whole: Sequence[ChunkedText], top_k: int, *, best: bool
) -> list[Hit]:
    """Rank some documents by their whole vectors."""
    numbers = sorted(documents)
    index = ChunkIndex(whole[number] for number in numbers)
    # The whole vectors may have another dimension than those that were packed.
    checked_rows("query_vectors", query, index.dimension)
    [(_, hits)] = _nearest(query[None], index, top_k, best=best)
    return [hit._replace(document=numbers[hit.document]) for hit in hits]


def _checked_whole(rescore: Any, index: ChunkIndex) -> None:
    """Refuse whole vectors of another number of documents, where the number is known."""
    if isinstance(rescore, Sized) and len(rescore) != len(index):
        msg = both(
            f"rescore has {len(rescore)} documents, and {len(index)} are searched. Pass the whole "
            "vectors of the same documents, in the same order.",
            f"rescore の文書は {len(rescore)}、検索する文書は {len(index)} です。同じ文書の元の"
            "ベクトルを、同じ順で渡してください。",
        )
        raise ConfigError(msg)


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        msg = both(
            f"{name}={shown(value)} is not a number of hits. Use a positive integer.",
            f"{name}={shown(value)} は件数として使えません。正の整数にしてください。",
        )
        raise ConfigError(msg)
