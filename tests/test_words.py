"""What users read: every error says in English and in Japanese the same."""

from __future__ import annotations

import ast
import logging
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import models
from safe_embed import Event, SafeEncoder, Stats, errors
from safe_embed.errors import MissingExtraError, SafeEmbedError, both
from safe_embed.memory import MemorySample, Rung, WorkerState
from safe_embed.memory.event_log import log_event

pytestmark = pytest.mark.usefixtures("forked_workers")

MIB = 2**20

SOURCE = Path(__file__).parent.parent / "src" / "safe_embed"
MODULES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCE.rglob("*.py")}
# MissingExtraError writes its message itself; SafeEmbedError is never raised by itself.
CLASSES = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, SafeEmbedError)
} - {"MissingExtraError", "SafeEmbedError"}
JAPANESE = re.compile("[ぁ-んァ-ヶ一-龠]")
# Parts of a sentence, which a language may need or not: an article, what was asked for, a fact.
IN_ONE_LANGUAGE = {
    *("english", "japanese", "way.english", "way.japanese"),
    *("name", "_with_article(name)", "hint"),
    *("asked", "fact", "purpose", "tried", "value"),
    *("error", "type(error).__name__"),  # "see the error above"
}


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Every call of a plain name in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node


def is_call(node: ast.AST | None, names: set[str]) -> bool:
    """Whether a node calls one of some functions."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def writers() -> set[str]:
    """Functions and names of messages: what returns, or is, the value of ``both``."""
    known = {"both"}
    while True:
        found = set(known)
        for tree in MODULES.values():
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef):
                    answers = [x for x in ast.walk(node) if isinstance(x, ast.Return)]
                    if answers and all(is_call(answer.value, known) for answer in answers):
                        found.add(node.name)
        if found == known:
            return known
        known = found


def variables(scope: ast.AST, known: set[str]) -> set[str]:
    """Names that are only ever given what such functions return."""
    every: dict[str, list[bool]] = {}
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    every.setdefault(target.id, []).append(is_call(node.value, known))
    return {name for name, values in every.items() if all(values)}


def test_every_error_is_written_in_both_languages() -> None:
    """Each place that makes an error of ours has its message from ``both``."""
    known, constants = writers(), set[str]()
    for tree in MODULES.values():
        constants |= variables(tree, known)
    checked, missing = 0, []
    for path, tree in MODULES.items():
        for call in calls(tree):
            if not is_call(call, CLASSES):
                continue
            checked += 1
            message = call.args[0] if call.args else None
            is_written = is_call(message, known) or (
                isinstance(message, ast.Name) and message.id in constants
            )
            if not is_written:
                missing.append(f"{path.name}:{call.lineno}")
    assert [] == missing
    assert checked > 70


def literals(node: ast.AST) -> str:
    """The fixed words of a message."""
    texts = [x.value for x in ast.walk(node) if isinstance(x, ast.Constant)]
    return "".join(text for text in texts if isinstance(text, str))


def values(node: ast.AST) -> set[str]:
    """The variable parts of a message, as in the source; ``hint_ja`` belongs to ``hint``."""
    parts = [ast.unparse(x.value) for x in ast.walk(node) if isinstance(x, ast.FormattedValue)]
    return {re.sub("_ja$", "", part, flags=re.IGNORECASE) for part in parts}


def test_both_languages_say_the_same() -> None:
    """Each message has English words without Japanese ones, Japanese ones, and the same values."""
    different, checked = [], 0
    for path, tree in MODULES.items():
        for call in calls(tree):
            if not is_call(call, {"both"}):
                continue
            english, japanese = call.args
            if isinstance(english, ast.Name):  # as it came from another message
                continue
            checked += 1
            where = f"{path.name}:{call.lineno}"
            if JAPANESE.search(literals(english)):
                different.append(f"{where} has Japanese in its English")
            if not JAPANESE.search(literals(japanese)) and "japanese" not in values(japanese):
                different.append(f"{where} has no Japanese")
            if apart := (values(english) ^ values(japanese)) - IN_ONE_LANGUAGE:
                different.append(f"{where} says only once {sorted(apart)}")
    assert not different, "\n".join(different)
    assert checked > 70


@pytest.mark.parametrize("kind", sorted(CLASSES | {"MissingExtraError"}))
def test_every_class_of_errors_is_raised_in_both_languages(kind: str) -> None:
    """None of the public classes is left out by the tests above."""
    made = [call for tree in MODULES.values() for call in calls(tree) if is_call(call, {kind})]
    assert made


def test_a_missing_extra_is_told_in_both_languages() -> None:
    """It writes its message itself."""
    english, japanese = str(MissingExtraError("a feature", "a-package", "offline")).split("\n")
    assert not JAPANESE.search(english)
    assert JAPANESE.search(japanese)
    for line in (english, japanese):
        assert all(word in line for word in ("a feature", "a-package", "safe-embed[offline]"))


def test_english_comes_first() -> None:
    """One line after the other."""
    assert "one\n一" == both("one", "一")


# --- What is printed ----------------------------------------------------------------------------


def sample(held: int | None, seconds: float, **sizes: int) -> MemorySample:
    """A measurement, so many seconds after now."""
    return MemorySample(time.monotonic() + seconds, rss_anon_bytes=held, **sizes)


def seconds_in(text: str) -> float:
    """The seconds since the start that a text tells."""
    [found] = re.findall(r"at ([\d,]+\.\d) s", text)
    return float(found.replace(",", ""))


def test_a_measurement_is_printed_for_people() -> None:
    """Sizes in MiB; seconds since the start, not since the machine was switched on."""
    used = {"peak_bytes": 900 * MIB, "limit_bytes": 2048 * MIB, "limit_used_bytes": 1024 * MIB}
    printed = repr(sample(700 * MIB, 5000, **used))
    assert "holds 700 MiB, peak 900 MiB, 1,024 MiB of 2,048 MiB used" in printed
    assert 5000 <= seconds_in(printed) < 5000 + 3600
    assert "holds -, peak -" in repr(sample(None, 0))


def test_an_event_is_printed_as_the_log_tells_it(caplog: pytest.LogCaptureFixture) -> None:
    """Both sizes in MiB, the duration, and when it was."""
    event = Event("remedy", "why", Rung.MODEL, sample(700 * MIB, 0), sample(None, 100), 1.25)
    with caplog.at_level(logging.INFO, "safe_embed"):
        log_event(event)
    [record] = caplog.records
    assert record.getMessage().startswith("MODEL: remedy (why), held 700 MiB -> - in 1.250 s, at ")
    assert record.getMessage() in repr(event)
    assert seconds_in(str(event)) >= 100
    failed = replace(event, kind="failed", error="OSError")
    assert " in 1.250 s, OSError, at " in str(failed)


def test_stats_are_printed_for_people() -> None:
    """One line, whatever there was: the events are counted."""
    event = Event("remedy", "why", Rung.TRIM, sample(1, 0), sample(1, 0), 0.1)
    now, warm = sample(750 * MIB, 0), sample(700 * MIB, 0)
    stats = Stats(1234, 56789, 10**6, 12, 3, now, warm, (event,) * 100)
    printed = repr(stats)
    assert "1,234 calls, 56,789 texts, 1,000,000 tokens and 12 of padding, 3 reloads" in printed
    assert "100 events; holds 750 MiB (+50 MiB)" in printed
    assert len(printed.splitlines()) == 1
    assert "workers" not in printed
    assert "holds 750 MiB>" in repr(replace(stats, baseline=None))
    assert ", 2 workers;" in repr(replace(stats, workers=(WorkerState(1, now, warm),) * 2))


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_an_encoder_is_printed_for_people(isolation: Any, tmp_path: Path) -> None:
    """Model, dimension, limit, type and device; and that it is closed."""
    models.small().save(str(tmp_path))
    with SafeEncoder(tmp_path, isolation=isolation, device="cpu") as encoder:
        limit = encoder.max_seq_length
        expected = f"SafeEncoder({str(tmp_path)!r}, 32 dimensions, {limit} tokens, float32 on cpu)"
        assert expected == repr(encoder)
    assert f"SafeEncoder({str(tmp_path)!r}, closed)" == repr(encoder)


def test_an_encoder_of_a_loaded_model_names_its_type() -> None:
    """And shows nothing of what was passed."""
    with SafeEncoder(models.small(), reload=None) as encoder:
        assert repr(encoder).startswith("SafeEncoder(<SentenceTransformer")
    with SafeEncoder(models.small, reload=None) as encoder:
        assert repr(encoder).startswith("SafeEncoder(<function>, ")
