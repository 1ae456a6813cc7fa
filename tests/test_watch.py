"""The memory log: what is written, at what cost to the program, and what can be read from it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from safe_embed import watch
from safe_embed.diagnosis import Log, read_log, shape_of
from safe_embed.diagnosis.readings import Reading
from safe_embed.diagnosis.verdicts import Cause
from safe_embed.errors import ConfigError
from seams import wait_until

MB = 1_000_000
TEXT = "秘密の文です。"


def written(path: Path) -> int:
    """Number of whole lines in a file; 0 if it is not there yet."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log goes."""
    return tmp_path / "memory.jsonl"


# --- Writing --------------------------------------------------------------------------------------


def test_the_first_line_says_what_the_process_runs_on(path: Path) -> None:
    """Versions, platform, allocator, clock; the readings follow."""
    with watch(path):
        pass
    log = read_log(path)
    wanted = {"packages", "python", "platform", "allocator", "time", "pid", "interval_seconds"}
    assert wanted <= set(log.header)
    assert "safe-embed" in log.header["packages"]
    assert os.getpid() == log.header["pid"]
    first, last = log.readings
    assert 0 == first.elapsed_seconds <= last.elapsed_seconds
    assert 0 == first.calls


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_reading_has_all_that_linux_tells(path: Path) -> None:
    """Memory, threads by name, file descriptors."""
    with watch(path, interval_seconds=0.01):
        wait_until(lambda: written(path) >= 4)
    reading = read_log(path).readings[1]
    assert 0 < (reading.rss_anon_bytes or 0) < (reading.address_space_bytes or 0)
    assert 0 < (reading.rss_file_bytes or 0)
    assert 0 < (reading.file_descriptors or 0)
    assert 2 <= (reading.native_threads or 0)
    assert {"MainThread": 1, "safe-embed-watch": 1}.items() <= (
        reading.python_threads or {}
    ).items()


def test_readings_come_at_the_interval_while_the_block_runs(path: Path) -> None:
    """A daemon thread takes them; after the block it is gone."""
    with watch(path, interval_seconds=0.01):
        wait_until(lambda: written(path) >= 5)
        assert "safe-embed-watch" in {one.name for one in threading.enumerate()}
    assert "safe-embed-watch" not in {one.name for one in threading.enumerate()}
    elapsed = [one.elapsed_seconds for one in read_log(path).readings]
    assert sorted(elapsed) == elapsed


def test_memory_is_read_after_each_call(path: Path) -> None:
    """One reading for each call, in order, and the calls are numbered."""
    with watch(path, each_call=True) as log:
        encode = log.wrap(len)
        assert [7] * 50 == [encode(TEXT) for _ in range(50)]
    of_calls = [one for one in read_log(path).readings if one.python_threads is None]
    assert list(range(1, 51)) == [one.calls for one in of_calls]
    assert all(one.rss_anon_bytes for one in of_calls)
    assert 50 == log.calls


def test_calls_are_counted_at_an_interval_too(path: Path) -> None:
    """Without a reading after each of them."""
    with watch(path) as log:
        for _ in range(30):
            log.call()
    readings = read_log(path).readings
    assert [0, 30] == [one.calls for one in readings]


def test_several_threads_count(path: Path) -> None:
    """No call is lost, and none is counted twice."""
    with watch(path, each_call=True, interval_seconds=0.01) as log, ThreadPoolExecutor(8) as pool:
        for _ in range(400):
            pool.submit(log.call)
    of_calls = [one for one in read_log(path).readings if one.python_threads is None]
    assert list(range(1, 401)) == [one.calls for one in of_calls]


def test_a_coroutine_function_counts_when_it_has_ended(path: Path) -> None:
    """Not when its coroutine is made."""
    with watch(path) as log:

        @log.wrap
        async def encode() -> int:
            await asyncio.sleep(0)
            return log.calls

        assert (0, 1) == (asyncio.run(encode()), log.calls)


def test_an_exception_ends_the_log_and_passes_through(path: Path) -> None:
    """The last reading counts the call that raised."""

    def fail() -> None:
        raise KeyError(TEXT)

    with pytest.raises(KeyError), watch(path) as log:
        log.wrap(fail)()
    assert 1 == read_log(path).readings[-1].calls


def test_texts_are_never_written(path: Path) -> None:
    """Neither arguments, results nor errors of a wrapped function."""

    def fail(text: str) -> None:
        raise ValueError(text)

    with watch(path, each_call=True) as log:
        log.wrap(str)(TEXT)
        with pytest.raises(ValueError, match=TEXT):
            log.wrap(fail)(TEXT)
    content = path.read_text()
    assert TEXT not in content
    assert json.dumps(TEXT)[1:-1] not in content


def test_a_log_stays_within_its_size_and_keeps_the_whole_curve(path: Path) -> None:
    """Each time the file is full, every second reading goes: those that stay are evenly spaced."""
    with watch(path, each_call=True, max_bytes="64 KiB") as log:
        for _ in range(10_000):
            log.call()
    assert path.stat().st_size <= 65_536
    calls = [one.calls or 0 for one in read_log(path).readings if one.python_threads is None]
    steps = {after - before for before, after in pairwise(calls)}
    assert 1 == calls[0]
    assert 1 == len(steps)
    assert {True} == {step > 1 for step in steps}
    assert calls[-1] > 10_000 - max(steps)
    assert [path] == list(path.parent.iterdir())


def test_readings_at_the_interval_are_thinned_as_well(path: Path) -> None:
    """Without calls the readings at the interval are the larger part."""
    with watch(path, interval_seconds=0.01, max_bytes="64 KiB"):
        inode = path.stat().st_ino
        wait_until(lambda: path.stat().st_ino != inode, seconds=60)
    log = read_log(path)
    assert 0 == log.readings[0].elapsed_seconds
    assert path.stat().st_size <= 65_536


def test_the_log_of_an_earlier_process_is_kept(path: Path) -> None:
    """A worker that is started again does not overwrite what its predecessor told."""
    for calls in (1, 2):
        with watch(path) as log:
            for _ in range(calls):
                log.call()
    assert 2 == read_log(path).readings[-1].calls
    assert 1 == read_log(f"{path}.1").readings[-1].calls


def test_a_log_is_written_once(path: Path) -> None:
    """A second block, within the first or after it, would mix two logs."""
    log = watch(path)
    with log, pytest.raises(ConfigError, match="ください"), log:
        pass
    with pytest.raises(ConfigError, match="ください"), log:
        pass
    assert 2 == len(read_log(path).readings)


def _no_folder(folder: Path) -> Path:
    return folder / "missing" / "memory.jsonl"


def _a_folder(folder: Path) -> Path:
    return folder


def _a_file_below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "memory.jsonl"


def _other_data(folder: Path) -> Path:
    (folder / "texts.jsonl").write_text('{"text": "大切な文"}\n', encoding="utf-8")
    return folder / "texts.jsonl"


@pytest.mark.parametrize("make", [_no_folder, _a_folder, _a_file_below_a_file, _other_data])
def test_a_path_that_cannot_be_written_is_refused(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Before the block runs and a thread starts, in both languages; other files stay."""
    target = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    entered = False
    with pytest.raises(ConfigError, match="ください") as refused, watch(target):
        entered = True
    assert not entered
    assert str(target) in str(refused.value)
    assert before == sorted(tmp_path.rglob("*"))
    assert "safe-embed-watch" not in {one.name for one in threading.enumerate()}


@pytest.mark.parametrize(
    "arguments",
    [
        {"interval_seconds": 0},
        {"interval_seconds": -1.0},
        {"interval_seconds": float("nan")},
        {"interval_seconds": float("inf")},
        {"max_bytes": 1000},
        {"max_bytes": "much"},
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], path: Path) -> None:
    """At once, not when the block begins."""
    with pytest.raises(ConfigError):
        watch(path, **arguments)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_ends_the_log_and_not_the_program(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one warning; calls are counted on."""
    with watch(path, each_call=True) as log:
        full = os.open("/dev/full", os.O_WRONLY)
        (ours,) = [
            int(one.name)
            for one in Path("/proc/self/fd").iterdir()
            if one.exists() and one.resolve() == path.resolve()
        ]
        os.dup2(full, ours)
        os.close(full)
        for _ in range(3_000):
            log.call()
    assert 3_000 == log.calls
    assert 1 == len([one for one in caplog.records if str(path) in one.getMessage()])


# --- Real processes -------------------------------------------------------------------------------

WORKER = """
import sys
from safe_embed import watch
with watch(sys.argv[1], each_call=True, interval_seconds=0.01) as log:
    while True:
        log.call()
"""
FORKING = """
import os, sys, threading
from safe_embed import watch
with watch(sys.argv[1], each_call=True) as log:
    log.call()
    child = os.fork()
    for _ in range(3):
        log.call()
    if child:
        os.waitpid(child, 0)
    # The child leaves the block, and ends with all that is run at the end.
"""


def _run(code: str, path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, str(path)])


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_the_log_of_a_killed_process_can_be_read(path: Path) -> None:
    """All lines, but perhaps the last, are whole; what was there at the last interval is there."""
    process = _run(WORKER, path)
    try:
        wait_until(lambda: written(path) > 2_000)
        seen = written(path)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    for line in path.read_bytes().split(b"\n")[:-1]:
        json.loads(line)
    assert len(read_log(path).readings) >= seen - 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_writes_nothing(path: Path) -> None:
    """Neither its calls nor, at its end, what its parent had not written yet."""
    assert 0 == _run(FORKING, path).wait()
    log = read_log(path)
    of_calls = [one.calls for one in log.readings if one.python_threads is None]
    assert [1, 2, 3, 4] == of_calls
    assert 2 == len(log.readings) - len(of_calls)


def test_the_log_loads_neither_torch_nor_numpy() -> None:
    """Nor what judges a curve."""
    code = (
        "import sys; from safe_embed import watch; from safe_embed.diagnosis import read_log\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.strip()


# --- Reading --------------------------------------------------------------------------------------


def test_a_last_line_that_is_broken_off_is_left_out(path: Path) -> None:
    """Wherever it was broken off."""
    with watch(path) as log:
        log.call()
    whole = path.read_bytes()
    length = len(whole) - whole[:-1].rfind(b"\n") - 2
    for missing in (1, 2, length // 2, length):
        path.write_bytes(whole[:-missing])
        assert 1 == len(read_log(path).readings)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"2026-11-28 INFO started\n",
        b'{"elapsed_seconds": 0}\n',
        b"[1, 2]\n",
        b"\x00\xff\x80" * 10,
        b'{"safe_embed_log": 1',
        b'{"safe_embed_log": 1}\nbroken\n{"elapsed_seconds": 1}\n',
        b'{"safe_embed_log": 1}\n{"calls": 1}\n{"elapsed_seconds": 1}\n',
        b'{"safe_embed_log": 1}\n[1]\n',
        b'{"safe_embed_log": 1}\n{"elapsed_seconds": "1"}\n',
    ],
)
def test_a_file_that_is_no_log_is_refused(content: bytes, path: Path) -> None:
    """In both languages."""
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="ください"):
        read_log(path)


def test_a_file_that_is_missing_is_refused(path: Path) -> None:
    """As all other files that are no log."""
    with pytest.raises(ConfigError, match="ください"):
        read_log(path)


def test_values_of_later_versions_are_ignored(path: Path) -> None:
    """And those of the wrong type."""
    path.write_bytes(
        b'{"safe_embed_log": 2}\n'
        b'{"elapsed_seconds": 1, "new": {"a": 1}, "calls": "x", "rss_anon_bytes": 5}\n'
    )
    assert (Reading(1, rss_anon_bytes=5),) == read_log(path).readings


# --- The shape ------------------------------------------------------------------------------------


def made(count: int = 400, **values: Callable[[int], Any]) -> Log:
    """A log with a reading each minute; values by the number of the reading."""
    readings = [
        Reading(60.0 * number, **{name: value(number) for name, value in values.items()})
        for number in range(count)
    ]
    return Log({}, tuple(readings))


def causes(log: Log) -> dict[Cause, bool]:
    """Cause -> whether it is an alarm."""
    return {one.cause: one.grows for one in shape_of(log)}


def test_flat_memory_is_flat() -> None:
    """Nothing else is found in it."""
    log = made(rss_anon_bytes=lambda n: 500 * MB, file_descriptors=lambda n: 9)
    assert {Cause.FLAT: False} == causes(log)


def test_a_cache_that_fills_is_a_plateau() -> None:
    """With its height."""
    (finding,) = shape_of(made(rss_anon_bytes=lambda n: 500 * MB + min(n, 80) * MB))
    assert (Cause.PLATEAU, False) == (finding.cause, finding.grows)
    assert 80 * MB == pytest.approx(finding.size_bytes, rel=0.1)


def test_growth_is_an_alarm_of_unclear_cause() -> None:
    """With its rate by hour and by call, and the experiment that decides."""
    (finding,) = shape_of(made(rss_anon_bytes=lambda n: n * MB, calls=lambda n: 20 * n))
    assert (Cause.UNCLEAR, True) == (finding.cause, finding.grows)
    assert 50_000 == pytest.approx(finding.bytes_per_call)
    assert "60." in finding.in_words()
    assert "MB an hour" in finding.in_words()
    assert "1 時間に" in finding.in_words("ja")
    assert "safe-embed doctor --target" in finding.remedy


def test_a_short_log_is_unclear_and_no_alarm() -> None:
    """19 calls of +1,055 MB were a pool that fills."""
    for count in (0, 1, 2, 19, 199):
        (finding,) = shape_of(made(count, rss_anon_bytes=lambda n: n * 50 * MB))
        assert (Cause.UNCLEAR, False) == (finding.cause, finding.grows)
        assert "again" in finding.in_words()


def test_a_log_without_memory_is_unclear() -> None:
    """As where nothing can be read."""
    assert {Cause.UNCLEAR: False} == causes(made())


def test_rising_file_pages_under_flat_memory_are_paged_in() -> None:
    """No alarm."""
    rising = {"rss_file_bytes": lambda n: n * MB}
    assert {Cause.FLAT: False, Cause.PAGED_IN: False} == causes(
        made(rss_anon_bytes=lambda n: 500 * MB, **rising)
    )
    assert Cause.PAGED_IN not in causes(made(rss_anon_bytes=lambda n: n * MB, **rising))


def test_file_pages_of_the_warm_up_are_not_told() -> None:
    """Every process loads its libraries."""
    log = made(rss_anon_bytes=lambda n: MB, rss_file_bytes=lambda n: min(n, 40) * 10 * MB)
    assert {Cause.FLAT: False} == causes(log)


def test_file_descriptors_without_end_are_an_alarm() -> None:
    """Even under flat memory; a pool of connections is none."""
    flat = {"rss_anon_bytes": lambda n: MB}
    assert {Cause.FLAT: False, Cause.FILE_DESCRIPTORS: True} == causes(
        made(file_descriptors=lambda n: 10 + n, **flat)
    )
    assert {Cause.FLAT: False} == causes(
        made(file_descriptors=lambda n: 10 + (n > 250) * 12, **flat)
    )


def test_threads_that_rise_with_memory_are_named() -> None:
    """By the names of the Python threads among them."""
    finding = shape_of(
        made(
            rss_anon_bytes=lambda n: n * MB,
            native_threads=lambda n: 4 + n,
            python_threads=lambda n: {"MainThread": 1, "request": 1 + n // 2},
        )
    )[1]
    assert (Cause.CALLING_THREADS, True) == (finding.cause, finding.grows)
    assert "request +199" in finding.in_words()
    assert "MainThread" not in finding.in_words()


def test_free_blocks_that_rise_as_fast_name_the_allocator() -> None:
    """Blocks in use do not."""
    grows = {"rss_anon_bytes": lambda n: n * MB}
    assert {Cause.ALLOCATOR: True} == causes(made(heap_kept_bytes=lambda n: n * MB, **grows))
    assert {Cause.UNCLEAR: True} == causes(
        made(heap_kept_bytes=lambda n: 30 * MB + n % 7, heap_used_bytes=lambda n: n * MB, **grows)
    )


def test_memory_in_the_middle_of_a_call_does_not_count() -> None:
    """A log of each call is judged by what is held when calls end."""

    def readings() -> Iterator[Reading]:
        for number in range(400):
            yield Reading(number, calls=number + 1, rss_anon_bytes=100 * MB)
            if number % 3 == 0:
                peak = 100 * MB + number * MB
                yield Reading(number + 0.5, calls=number + 1, rss_anon_bytes=peak)

    assert {Cause.FLAT: False} == causes(Log({"each_call": True}, tuple(readings())))
