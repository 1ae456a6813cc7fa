"""Whatever happens to an encoder between two calls, its results are those of one left alone."""

from __future__ import annotations

import gc
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import models
from safe_embed import SafeEncoder
from safe_embed.errors import ReloadError
from safe_embed.memory.policies import EveryCalls, EveryTokens, MemoryGrowth
from safe_embed.memory.sampling import Sampler
from safe_embed.memory.types import MemorySample, Rung
from seams import Headroom, OnDemand, encoder_with

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

pytestmark = pytest.mark.long

MIB = 2**20
FAULTS = ("raises", "other", "no model")
_WORLD: dict[str, Any] = {}


@pytest.fixture(scope="module", autouse=True)
def _world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A model in a folder, a reference that never reloads, and quick full collections."""
    path = tmp_path_factory.mktemp("machine")
    models.small().save(str(path))
    gc.collect()
    gc.freeze()
    with SafeEncoder(path, reload=None) as reference:
        _WORLD.update(path=path, reference=reference)
        yield
    gc.unfreeze()
    _WORLD.clear()


class Jumping(Sampler):
    """Measures the process, but for what it holds: that is what a test says."""

    def __init__(self, held: Callable[[], int], *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.held = held

    def take(self, **options: Any) -> MemorySample:
        """Take a sample."""
        return replace(super().take(**options), rss_anon_bytes=self.held())


class Reloads(RuleBasedStateMachine):
    """Encode, reload at every rung, fail, change weights, jump in memory, close: nothing is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = tempfile.TemporaryDirectory()
        self.fault: str | None = None
        self.headroom = Headroom()
        self.policy = OnDemand()
        self.jump = 0
        self.encoder_kind = encoder_with(
            headroom=self.headroom,
            idle_seconds=3600.0,
            retry_seconds=0.0,
            sampler=partial(Jumping, lambda: 500 * MIB + self.jump),
        )
        self.folder = Path(shutil.copytree(_WORLD["path"], Path(self.scratch.name) / "model"))
        self.open(0, from_folder=False)

    def load(self) -> SentenceTransformer | None:
        """The loader, with its faults."""
        from sentence_transformers import SentenceTransformer

        if self.fault == "raises":
            raise ConnectionError
        if self.fault == "no model":
            return None
        model = SentenceTransformer(str(self.folder), device="cpu")
        if self.fault is None:
            self.loaded = weakref.ref(model)
        else:
            import torch

            with torch.no_grad():
                weight = model[0].auto_model.embeddings.word_embeddings.weight
                weight.copy_(weight.roll(1, 0))
        return model

    def open(self, kind: int, *, from_folder: bool) -> None:
        """Make an encoder."""
        policies: tuple[Any, ...] = (
            self.policy,
            EveryCalls(3, jitter=0) | self.policy,
            MemoryGrowth("50 MiB", cool_down_seconds=0) | self.policy,
            EveryTokens(100, jitter=0) | MemoryGrowth("50 MiB") | self.policy,
        )
        self.fault, self.from_folder = None, from_folder
        self.policy.rungs.clear()
        self.loaded: weakref.ref[Any] | None = None
        self.encoder = self.encoder_kind(
            self.folder if from_folder else self.load, reload=policies[kind], hooks=[self.shrink]
        )

    def shrink(self, event: Any) -> None:
        """The higher the rung, the more is given back."""
        if event.kind == "remedy":
            self.jump //= int(event.rung)

    @rule(kind=st.integers(0, 3), from_folder=st.booleans())
    def reopen(self, kind: int, *, from_folder: bool) -> None:
        """Close, and begin anew."""
        self.encoder.close()
        self.open(kind, from_folder=from_folder)

    @rule(texts=st.lists(models.japanese(max_size=25), max_size=5))
    def encode(self, texts: list[str]) -> None:
        """Results are those of the reference; without a model there is an error and no result."""
        self.compare(texts)

    @rule(start=st.integers(0, 50))
    def encode_long(self, start: int) -> None:
        """The same with a text of many chunks."""
        self.compare([models.long_text(20, start), "雨"])

    def compare(self, texts: list[str]) -> None:
        """Encode, and compare with the reference."""
        expected = _WORLD["reference"].encode(texts)
        try:
            vectors = self.encoder.encode(texts)
        except ReloadError:
            # There was no room for two models, and the new one did not come.
            assert self.fault is not None
            assert self.loaded is not None
            assert self.loaded() is None
        else:
            np.testing.assert_array_equal(expected, vectors)
        # A reload that the call has brought about meets no fault of a later rule half-way.
        self.encoder.backend.idle()

    @rule(rung=st.sampled_from([Rung.TRIM, Rung.TOKENIZER_CACHE, Rung.TOKENIZER, Rung.MODEL]))
    def climb(self, rung: Rung) -> None:
        """Take a rung, because a policy asks for it."""
        self.policy.rungs.append(rung)
        try:
            self.encoder.plan("雨")
        except ReloadError:
            assert self.fault is not None
        self.encoder.backend.idle()

    @rule(grown=st.integers(40, 400))
    def grow(self, grown: int) -> None:
        """Memory jumps."""
        self.jump += grown * MIB

    @rule(room=st.booleans())
    def change_room(self, *, room: bool) -> None:
        """There is room for two models, or no more."""
        self.headroom.is_there = room

    @precondition(lambda self: not self.from_folder)
    @rule(fault=st.none() | st.sampled_from(FAULTS))
    def change_loader(self, fault: str | None) -> None:
        """The loader breaks, or is right again."""
        self.fault = fault

    @rule()
    def reload(self) -> None:
        """By hand: it works, unless something is wrong."""
        reloads = self.encoder.stats.reloads
        try:
            self.encoder.reload()
        except ReloadError:
            assert self.fault is not None
        else:
            assert self.encoder.stats.reloads > reloads

    @precondition(lambda self: self.from_folder)
    @rule(harm=st.sampled_from(["gone", "touched", "swapped"]))
    def spoil_the_folder(self, harm: str) -> None:
        """Files are not what they were: no reload, nothing lost; then they are put right."""
        away = self.folder.rename(self.folder.with_name("away"))
        if harm != "gone":
            shutil.copytree(away, self.folder)
            (self.folder / "model.safetensors").write_bytes(harm.encode())
        with pytest.raises(ReloadError):
            self.encoder.reload()
        self.compare(["雨", models.long_text(9)])
        if harm != "gone":
            shutil.rmtree(self.folder)
        away.rename(self.folder)

    @invariant()
    def calls_are_counted(self) -> None:
        """Only what went wrong is told as failed, by the type of the error."""
        for event in self.encoder.stats.events:
            assert (event.kind == "failed") == (event.error is not None)

    def teardown(self) -> None:
        """Close."""
        self.encoder.close()
        self.scratch.cleanup()


TestReloads = Reloads.TestCase
TestReloads.settings = settings(
    max_examples=20,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
