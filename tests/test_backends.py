"""The contract of a backend, on every kind of it: another kind need only be added to the list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
import process_models
import seams
from safe_embed import EveryCalls, Never, SafeEncoder
from safe_embed.backends.interface import Backend
from safe_embed.backends.process.worker_pool import WorkerPool
from safe_embed.backends.thread import ThreadBackend
from safe_embed.errors import ReloadError, TextTooLongError, WorkerError
from safe_embed.inference.pipeline import Pipeline
from safe_embed.inference.request import (
    Embed,
    EmbedChunks,
    EmbedRaw,
    FetchTokenizer,
    OnLong,
    PlanTexts,
    Request,
    Settings,
)
from safe_embed.policies import ReloadPolicy
from safe_embed.pooling import mean_pool
from safe_embed.supervision.conditions import Conditions
from safe_embed.text import chunking
from safe_embed.text.chunking import Chunker
from safe_embed.text.punctuation import PunctuationSplitter
from safe_embed.text.splitters import ladder
from safe_embed.upstream.source import ModelSource

pytestmark = pytest.mark.usefixtures("forked_workers")

Make = Callable[..., Backend]
KINDS: dict[str, Callable[..., Backend]] = {"thread": ThreadBackend, "process": WorkerPool}
TEXTS = ["今日は雨です。", models.long_text(12), "", "え？", models.long_text(5, start=40)]
TIMEOUT = 120


@pytest.fixture(scope="module")
def upstream(saved: Path) -> Any:
    """The model itself, as the reference."""
    return process_models.plain(str(saved))


@pytest.fixture(scope="module", params=KINDS)
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a backend of one kind."""
    kind = KINDS[request.param]

    def made(
        model: Any,
        policy: ReloadPolicy | None = None,
        hooks: tuple[Any, ...] = (),
        on_long: OnLong = "chunk",
        **conditions: Any,
    ) -> Backend:
        settings = Settings(
            Chunker(ladder(PunctuationSplitter()), "packed"), mean_pool, None, on_long
        )
        source = ModelSource(str(model) if isinstance(model, Path) else model)
        given = Conditions(**{"idle_seconds": 3600.0, **conditions})
        return kind(source, settings, policy or Never(), hooks, given)

    return made


@pytest.fixture(scope="module")
def backend(make: Make, saved: Path) -> Iterator[Backend]:
    """A backend for tests that do it no harm."""
    made = make(saved)
    yield made
    made.close()


def embed(backend: Backend, texts: list[str], **options: Any) -> Any:
    """Do one call."""
    return backend.submit(Embed(Request(texts, **options))).result(TIMEOUT)


def counts(backend: Backend) -> tuple[int, int, int, int]:
    """What stats count."""
    stats = backend.stats
    return stats.calls, stats.texts, stats.tokens, stats.padding_tokens


# Results


def test_every_call_has_the_result_of_an_encoder(backend: Backend, saved: Path) -> None:
    """To the bit, whatever the kind of the backend; short texts are upstream's."""
    with SafeEncoder(saved, reload=None, device="cpu") as encoder:
        np.testing.assert_array_equal(encoder.encode(TEXTS), embed(backend, TEXTS))
        chunked = backend.submit(EmbedChunks(Request(TEXTS))).result(TIMEOUT)
        for expected, text in zip(encoder.encode_chunks(TEXTS), chunked, strict=True):
            assert (expected.spans, expected.token_counts) == (text.spans, text.token_counts)
            np.testing.assert_array_equal(expected.vectors, text.vectors)
        plans = backend.submit(PlanTexts(Request(TEXTS))).result(TIMEOUT)
        assert encoder.plan(TEXTS) == plans


def test_a_long_text_goes_stretch_by_stretch(
    backend: Backend, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same chunks and vectors whatever the backend; no task has the whole text."""
    monkeypatch.setattr(chunking, "STRETCH_CHARS", 1_000)
    texts = [TEXTS[0], models.long_text(200), TEXTS[3]]
    before = counts(backend)
    with SafeEncoder(saved, reload=None, device="cpu") as encoder:
        [_, long, _] = encoder.encode_chunks(texts)
        [_, found, _] = backend.submit(EmbedChunks(Request(texts))).result(TIMEOUT)
        assert (long.spans, long.token_counts) == (found.spans, found.token_counts)
        np.testing.assert_array_equal(long.vectors, found.vectors)
        assert texts[1] == "".join(texts[1][slice(*span)] for span in found.spans)
        np.testing.assert_allclose(found.pooled(), embed(backend, texts)[1], rtol=0, atol=1e-5)
        assert encoder.plan(texts) == backend.submit(PlanTexts(Request(texts))).result(TIMEOUT)
    calls, n_texts, *_ = counts(backend)
    assert (2, 6) == (calls - before[0], n_texts - before[1])
    pipeline = Pipeline(Settings(Chunker(ladder(PunctuationSplitter())), mean_pool), backend.model)
    stages: Any = pipeline.stages(PlanTexts(Request(texts[1:2])))
    assert [] == next(stages).tasks  # no text is cut whole
    [task] = stages.send([]).tasks
    assert len(task.items[0].text) < len(texts[1])  # a window, not the text


def test_short_texts_have_the_vectors_of_upstream(backend: Backend, upstream: Any) -> None:
    """Also all its outputs, and its tokenizer."""
    texts = [TEXTS[0], TEXTS[3]]
    np.testing.assert_allclose(upstream.encode(texts), embed(backend, texts), rtol=0, atol=1e-6)
    options = {"output_value": "token_embeddings"}
    rows = backend.submit(EmbedRaw(Request(texts), options)).result(TIMEOUT)
    for expected, row in zip(upstream.encode(texts, **options), rows, strict=True):
        np.testing.assert_allclose(expected.numpy(), row.numpy(), rtol=0, atol=1e-6)
    tokenizer = backend.submit(FetchTokenizer()).result(TIMEOUT)
    assert upstream.tokenizer(texts)["input_ids"] == tokenizer(texts)["input_ids"]


def test_no_texts_at_all(backend: Backend) -> None:
    """A plan of nothing is nothing, and is no call that counts."""
    before = counts(backend)
    assert [] == backend.submit(PlanTexts(Request([]))).result(TIMEOUT)
    assert before == counts(backend)


# Counts


CALLS: list[Callable[[Backend], Any]] = [
    lambda backend: embed(backend, TEXTS),
    lambda backend: embed(backend, ["雨", models.long_text(2)], prompt="前: "),
    lambda backend: backend.submit(EmbedChunks(Request(TEXTS))).result(TIMEOUT),
    lambda backend: backend.submit(PlanTexts(Request(TEXTS))).result(TIMEOUT),
    lambda backend: backend.submit(EmbedRaw(Request(["雨"]), {"output_value": None})).result(
        TIMEOUT
    ),
]


@pytest.mark.parametrize("loader", [process_models.plain, process_models.falling_back])
def test_counts_do_not_depend_on_the_kind(loader: Any, saved: Path) -> None:
    """Calls, texts, tokens and padding, of a model whose batches are padded too."""
    found = []
    for kind in KINDS.values():
        settings = Settings(Chunker(ladder(PunctuationSplitter()), "packed"), mean_pool)
        source = ModelSource(partial(loader, str(saved)))
        backend = kind(source, settings, Never())
        steps = []
        for call in CALLS:
            call(backend)
            steps.append(counts(backend))
        found.append(steps)
        backend.close()
    assert [found[0]] * len(KINDS) == found
    calls, texts, tokens, padding = found[0][-1]
    assert (4, 2 * len(TEXTS) + 3) == (calls, texts)
    assert min(tokens, padding) > 0


def test_a_call_that_fails_is_not_counted(make: Make, saved: Path) -> None:
    """Refused before anything is computed, with the number of every long text."""
    backend = make(saved, on_long="error")
    with pytest.raises(TextTooLongError) as caught:
        embed(backend, TEXTS)
    assert (1,) == caught.value.indices
    assert (0, 0, 0, 0) == counts(backend)
    embed(backend, ["雨"])
    assert 1 == backend.stats.calls
    backend.close()


# Settings


def test_settings_hold_for_later_calls_and_later_models(make: Make, saved: Path) -> None:
    """Set before a reload or while it is under way: no setting is lost, and none is late."""
    backend = make(saved)
    backend.configure(max_seq_length=20)
    assert 20 == backend.model.limit_tokens
    with ThreadPoolExecutor(1) as pool:
        reload = pool.submit(backend.reload, "test")
        backend.configure(max_seq_length=10, prompts={"mine": "前: "})
        reload.result(TIMEOUT)
    for _ in range(2):
        plans = backend.submit(PlanTexts(Request([models.long_text(5)]))).result(TIMEOUT)
        assert 5 < max(plans[0].token_counts) <= 10
        assert {"mine": "前: "} == backend.model.settings.prompts
        backend.reload("test")
    assert 3 == backend.stats.reloads
    backend.close()


@pytest.mark.parametrize("is_room", [True, False], ids=["beside", "after"])
def test_settings_can_be_read_and_set_at_any_time(
    make: Make, saved: Path, *, is_room: bool
) -> None:
    """Many changes while models come and go: the last one holds."""
    backend = make(saved, headroom=seams.Headroom(is_room))
    with ThreadPoolExecutor(1) as pool:
        reload = pool.submit(lambda: [backend.reload("test") for _ in range(2)])
        for limit in range(60, 10, -1):
            backend.configure(max_seq_length=limit)
            assert limit == backend.model.limit_tokens
        reload.result(TIMEOUT)
    plans = backend.submit(PlanTexts(Request([models.long_text(5)]))).result(TIMEOUT)
    assert max(plans[0].token_counts) <= 11
    backend.close()


# Reloads


@pytest.mark.parametrize("is_room", [True, False], ids=["beside", "after"])
def test_a_reload_loses_no_call(make: Make, saved: Path, *, is_room: bool) -> None:
    """Calls of four threads, and reloads by hand and by policy: each result is right."""
    backend = make(saved, EveryCalls(15, jitter=0), headroom=seams.Headroom(is_room))
    expected = embed(backend, TEXTS)
    with ThreadPoolExecutor(5) as pool:
        reload = pool.submit(backend.reload, "by hand")
        for vectors in pool.map(lambda _: embed(backend, TEXTS), range(20)):
            np.testing.assert_array_equal(expected, vectors)
        reload.result(TIMEOUT)
    backend.idle()
    assert 21 == backend.stats.calls
    assert backend.stats.reloads >= 1
    assert {"remedy"} == {event.kind for event in backend.stats.events}
    backend.close()


def test_a_reload_that_fails_says_so(make: Make, saved: Path, tmp_path: Path) -> None:
    """The model serves on, and the cause is there."""
    gone = tmp_path / "gone"
    backend = make(partial(process_models.while_there, str(saved), str(gone)))
    gone.touch()
    with pytest.raises(ReloadError) as caught:
        backend.reload("test")
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert (1, 32) == embed(backend, ["雨"]).shape
    backend.close()


def test_idle_waits_for_what_a_policy_asked_for(make: Make, saved: Path) -> None:
    """After it, the reload that the last call brought about has happened."""
    backend = make(saved, EveryCalls(2, jitter=0))
    for reloads in (1, 2):
        for _ in range(2):
            embed(backend, ["雨"])
        backend.idle()
        assert reloads == backend.stats.reloads
    backend.close()


# Who may call, and when


def test_a_closed_backend_refuses_everything(make: Make, saved: Path) -> None:
    """With an error that says so; closing it again is no mistake."""
    backend = make(saved)
    backend.close()
    backend.close()
    for attempt in (
        lambda: embed(backend, ["雨"]),
        lambda: backend.reload("test"),
        lambda: backend.stats,
        lambda: backend.model,
        backend.idle,
    ):
        with pytest.raises(WorkerError, match="closed"):
            attempt()


def test_a_backend_cannot_be_called_from_its_own_thread(make: Make, saved: Path) -> None:
    """A hook that would wait for itself gets a WorkerError; it may look at stats."""
    errors: list[BaseException] = []

    def hook(_: Any) -> None:
        for attempt in (lambda: embed(backend, ["雨"]), lambda: backend.reload("x"), backend.idle):
            try:
                attempt()
            except WorkerError as error:
                errors.append(error)
        assert backend.stats.calls == 0

    backend = make(saved, hooks=(hook,))
    backend.reload("test")
    backend.idle()
    assert 3 == len(errors)
    assert {"own thread" in str(error) for error in errors} == {True}
    backend.close()


def test_a_cancelled_call_gives_up_its_place(backend: Backend) -> None:
    """It is not embedded further; others are served."""
    before = backend.stats.calls
    calls = [backend.submit(Embed(Request([models.long_text(400)]))) for _ in range(8)]
    for call in calls[1:]:
        assert call.cancel()
    assert (1, 32) == embed(backend, ["雨"]).shape
    assert (1, 32) == calls[0].result(TIMEOUT).shape
    for call in calls[1:]:
        with pytest.raises(CancelledError):
            call.result(0)
    backend.idle()
    assert before + 2 == backend.stats.calls


def test_an_unknown_call_is_an_error_with_a_name(backend: Backend) -> None:
    """Not silence: a caller would wait for ever."""
    future = backend.submit("雨")  # type: ignore[arg-type] # no call at all
    assert isinstance(future.exception(TIMEOUT), AssertionError)
    with pytest.raises(AssertionError, match="unreachable"):
        Pipeline(Settings(None, None), backend.model).stages("雨")  # type: ignore[arg-type]
