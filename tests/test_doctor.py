"""The doctor in real processes: what it names, what it refuses, and that no text gets out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import doctor_matrix
import safe_embed
from safe_embed.cli import app as cli
from safe_embed.diagnosis import Cause, Diagnosis, diagnose
from safe_embed.diagnosis.texts import TextMaker
from safe_embed.errors import ConfigError, SafeEmbedError

MB = 1_000_000
PLANTED = "合言葉は山川豊"
# Light functions: a process takes a second, most of it imports.
QUICK: dict[str, Any] = {"calls": 300, "budget_seconds": 120}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run the command in this process; its status, output and errors."""

    def run(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["safe-embed", "doctor", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return run


def test_a_held_list_is_named_from_the_command_line(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    """Its type and line, status 1, figures and picture; and the user's texts nowhere."""
    texts, figures, plot = tmp_path / "t.txt", tmp_path / "f.json", tmp_path / "p.svg"
    texts.write_text(f"{PLANTED}で始まる文。\n" * 30, encoding="utf-8")
    status, out, err = run(
        *("--target", "doctor_targets:holds_a_list", "--calls", 300, "--budget", 120),
        *("--texts", texts, "--json", figures, "--plot", plot, "--fail-on", "growth"),
    )
    assert 1 == status
    assert "Python objects held (list of bytes" in out
    assert "doctor_targets.py:" in out
    assert "保持されている Python オブジェクト" in out
    assert "results.clear()" in out
    told = json.loads(figures.read_text(encoding="utf-8"))
    assert told["grows"]
    assert Cause.PYTHON_OBJECTS.value == told["findings"][0]["cause"]
    assert {"varying lengths", "same text"} <= {one["name"] for one in told["experiments"]}
    picture = plot.read_text(encoding="utf-8")
    assert "varying lengths" in picture
    assert "same text" in err  # the progress
    for written in (out, err, picture, figures.read_text(encoding="utf-8")):
        assert PLANTED not in written
        assert PLANTED.encode("unicode_escape").decode() not in written


@pytest.fixture(scope="module")
def clean() -> Diagnosis:
    """What is said of a function that holds nothing."""
    return diagnose(target="doctor_targets:flat", **QUICK)


def test_a_function_that_holds_nothing_is_flat(clean: Diagnosis) -> None:
    """No alarm; every experiment was made, with as many calls as were asked for."""
    assert not clean.grows
    assert Cause.FLAT == clean.verdict.cause
    assert all(one.error is None and one.calls >= 300 for one in clean.observations)


def test_the_report_is_text_in_both_languages(clean: Diagnosis, tmp_path: Path) -> None:
    """It has the environment, can be drawn in Japanese, and becomes JSON."""
    report = str(clean)
    assert "Memory does not grow." in report
    assert "メモリは増え続けていません。" in report
    assert f"safe-embed {safe_embed.__version__}" in report
    assert "memory limit" in report
    clean.plot(tmp_path / "p.svg", language="ja")
    assert "同じ文" in (tmp_path / "p.svg").read_text(encoding="utf-8")
    assert json.loads(json.dumps(clean.to_dict()))["findings"]


def test_a_native_leak_without_a_model_is_outside() -> None:
    """Neither Python objects nor free blocks; the slope is that of the leak."""
    found = diagnose(target="doctor_targets:leaks", **QUICK)
    assert Cause.OUTSIDE == found.verdict.cause
    assert found.grows
    assert 49_000 < (found.verdict.bytes_per_call or 0) < 60_000


def test_open_files_are_named() -> None:
    """And counted."""
    found = diagnose(target="doctor_targets:opens_files", **QUICK)
    assert Cause.FILE_DESCRIPTORS in {one.cause for one in found.findings if one.grows}


@pytest.mark.parametrize(
    ("target", "expected"), [("fails", "ValueError"), ("dies", "end of its process")]
)
def test_a_function_that_cannot_be_called_is_an_error(target: str, expected: str) -> None:
    """It names the type, never the message, which may hold a text."""
    with pytest.raises(ConfigError, match=expected) as caught:
        diagnose(target=f"doctor_targets:{target}", texts=[PLANTED * 9], **QUICK)
    assert PLANTED not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--target", "no_such_module:function"),
        ("--target", "doctor_targets"),
        ("--target", "doctor_targets:"),
        ("--calls", 199),
        ("--budget", 5),
        ("--budget", "nan"),
        ("--plot", "picture.txt"),
        ("--plot", "no/such/folder/picture.svg"),
        ("--json", "no/such/folder/figures.json"),
        ("--texts", "no_such_file.txt"),
        ("--log", "no_such_log.jsonl"),
        ("--log", "log.jsonl", "--target", "doctor_targets:flat"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(
    arguments: tuple[object, ...], run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 2, in both languages, and no process was started."""
    started: list[object] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **_: started.append(args))
    status, out, err = run(*arguments)
    assert (2, "", []) == (status, out, started)
    assert any("\u3040" <= character <= "\u9fff" for character in err)


def test_a_target_that_is_no_function_is_refused() -> None:
    """The module is there; only its processes import it."""
    for name in ("NOT_A_FUNCTION", "no_such_name"):
        with pytest.raises(ConfigError, match="names no function"):
            diagnose(target=f"doctor_targets:{name}", **QUICK)


def test_a_log_is_read_and_drawn(run: Callable[..., Any], tmp_path: Path) -> None:
    """A log of watch whose memory does not grow; nothing is run."""
    log, plot = tmp_path / "memory.jsonl", tmp_path / "log.svg"
    with safe_embed.watch(log, each_call=True) as memory:
        for _ in range(250):
            memory.call()
    status, out, _ = run("--log", log, "--plot", plot, "--fail-on", "growth")
    assert 0 == status
    assert "Memory does not grow." in out
    assert "RssAnon" in plot.read_text(encoding="utf-8")


def test_texts_are_new_of_the_length_that_is_asked_for() -> None:
    """Also where the user's texts are short; each length once, before any comes again."""
    for texts in ((), ("短い文。",), ("長い文です。" * 50, "短い文。")):
        maker = TextMaker(texts)
        lengths = maker.lengths(50)
        stream = maker.stream("each length twice", lengths)
        assert lengths * 2 == [len(next(stream)) for _ in range(100)]
        assert all(1 <= length for length in lengths)
    same = TextMaker().stream("same", ())
    assert next(same) == next(same)
    new = TextMaker().stream("one length", ())
    assert 50 == len({next(new) for _ in range(50)})


def test_the_error_is_ours() -> None:
    """A caller can catch what this library refuses."""
    with pytest.raises(SafeEmbedError):
        diagnose(target="doctor_targets:flat", calls=1)


@pytest.mark.parametrize(
    ("case", "wanted", "named", "is_alarm", "is_right"),
    [
        ("held_list", ("python objects",), ("python objects",), True, True),
        ("held_list", ("python objects",), ("outside",), True, False),
        ("paged_in", ("paged in",), ("paged in",), False, True),
        ("few_threads", (), ("calling threads",), False, True),
        ("few_threads", (), ("forward",), True, False),
    ],
)
def test_the_matrix_counts_causes_and_alarms(
    case: str, wanted: tuple[str, ...], named: tuple[str, ...], is_alarm: bool, is_right: bool
) -> None:
    """A planted cause must be named; of clean processes one may be an alarm."""
    result = doctor_matrix.Result(case, wanted, named, is_alarm, "-", 1.0)
    assert is_right == result.is_right
    assert bool(wanted and not is_right) == bool(doctor_matrix.faults_in([result]))
    assert bool(not is_right) == bool(doctor_matrix.faults_in([result] * 2))
