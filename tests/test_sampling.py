"""What the process holds and what bounds it: parsers on files as systems write them, and planted growth."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

import models
from safe_embed import SafeEncoder
from safe_embed.errors import ConfigError
from safe_embed.memory import limits, policies, sampling
from safe_embed.memory.limits import Cgroups, Limit
from safe_embed.memory.sampling import Sampler, take_sample
from safe_embed.supervision.usage import WARM_UP_CALLS

MIB = 2**20
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

LINUX_STATUS = """\
Name:\tRssAnon: 7 kB
State:\tR (running)
VmPeak:\t 5222912 kB
VmSize:\t 5222900 kB
VmHWM:\t  712084 kB
VmRSS:\t  700001 kB
RssAnon:\t  400000 kB
RssFile:\t  300000 kB
RssShmem:\t       1 kB
VmSwap:\t       0 kB
Threads:\t9
"""
GVISOR_STATUS = "Name:\tpython3\nVmSize:\t64000 kB\nVmRSS:\t20000 kB\nThreads:\t3\n"

V1_STAT = """\
cache 1171456
inactive_file 1
active_file 2
hierarchical_memory_limit 536870912
total_cache 157286400
total_inactive_file 104857600
total_active_file 52428800
"""
V2_STAT = """\
anon 209715200
file 167772160
inactive_anon 209715200
inactive_file 104857600
active_file 52428800
slab_reclaimable 10485760
pgfault 43776
"""
HYBRID_CGROUP = "9:name=systemd:/\n5:cpu,cpuacct:/jobs/a\n4:memory:/jobs/a\n0::/\n"
HYBRID_MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V2_MOUNTS = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_the_status_of_linux_is_read() -> None:
    """Sizes come in bytes, threads as a count; a process may be named like a field."""
    expected = {
        "VmSize": 5222900 * 1024,
        "VmHWM": 712084 * 1024,
        "VmRSS": 700001 * 1024,
        "RssAnon": 400000 * 1024,
        "RssFile": 300000 * 1024,
        "RssShmem": 1024,
        "Threads": 9,
    }
    assert expected == sampling.parse_status(LINUX_STATUS)


def test_linux_counts_anonymous_memory_and_not_rss() -> None:
    """RssAnon and RssFile are kept apart, and there is no footprint beside them."""
    figures = sampling.process_figures(sampling.parse_status(LINUX_STATUS), None)
    expected = {
        "rss_anon_bytes": 400000 * 1024,
        "rss_file_bytes": 300000 * 1024,
        "rss_shmem_bytes": 1024,
        "footprint_bytes": None,
        "peak_bytes": 712084 * 1024,
        "native_threads": 9,
    }
    assert expected == figures


def test_a_sandbox_without_rss_anon_gives_rss_as_footprint() -> None:
    """What gVisor does not tell is None, and the RSS it does tell is the footprint."""
    figures = sampling.process_figures(sampling.parse_status(GVISOR_STATUS), None)
    expected = {
        "rss_anon_bytes": None,
        "rss_file_bytes": None,
        "rss_shmem_bytes": None,
        "footprint_bytes": 20000 * 1024,
        "peak_bytes": None,
        "native_threads": 3,
    }
    assert expected == figures


def test_without_proc_psutil_is_asked() -> None:
    """Where there is no /proc, psutil gives RSS as the footprint, and macOS's own count goes first."""
    figures = sampling.process_figures({}, None)
    assert MIB < (figures["footprint_bytes"] or 0)
    assert 1 <= (figures["native_threads"] or 0)
    assert "rss_anon_bytes" not in figures
    macos = sampling.process_figures({}, 123)
    assert 123 == macos["footprint_bytes"]
    assert 0 < (macos["peak_bytes"] or 0)


def rusage(footprint_bytes: int) -> bytes:
    """The structure of macOS with every number different."""
    return struct.pack("=16s10Q", b"u" * 16, *range(1, 8), footprint_bytes, 9, 10)


def test_the_footprint_of_macos_is_read_from_its_structure() -> None:
    """ri_phys_footprint is the eighth number after the UUID."""
    assert 77 * MIB == sampling.parse_rusage(rusage(77 * MIB))


def test_the_footprint_is_asked_of_the_c_library() -> None:
    """proc_pid_rusage is called with flavor 0 for this process; when it fails there is no figure."""

    def succeed(pid: int, flavor: int, buffer: Any) -> int:
        assert 0 == flavor
        buffer.value = b""
        ctypes.memmove(buffer, rusage(5 * MIB), 96)
        return 0

    libc = SimpleNamespace(proc_pid_rusage=succeed)
    assert 5 * MIB == sampling.footprint_reader(libc)()
    assert sampling.footprint_reader(SimpleNamespace(proc_pid_rusage=lambda *_: -1))() is None
    assert sampling.footprint_reader(SimpleNamespace())() is None


@pytest.mark.parametrize(
    ("membership", "mounts", "version", "folders"),
    [
        pytest.param(
            HYBRID_CGROUP,
            HYBRID_MOUNTS,
            1,
            ["/sys/fs/cgroup/memory/jobs/a", "/sys/fs/cgroup/memory/jobs", "/sys/fs/cgroup/memory"],
            id="v1 beside an empty v2",
        ),
        pytest.param(
            "4:memory:/docker/ab:c\n",
            "9 8 0:32 /docker/ab:c /sys/fs/cgroup/memory ro master:1 - cgroup cgroup rw,memory\n",
            1,
            ["/sys/fs/cgroup/memory"],
            id="v1 in a container that sees the host's paths",
        ),
        pytest.param(
            "0::/user.slice/job.scope\n",
            V2_MOUNTS,
            2,
            [
                "/sys/fs/cgroup/user.slice/job.scope",
                "/sys/fs/cgroup/user.slice",
                "/sys/fs/cgroup",
            ],
            id="v2 under systemd",
        ),
        pytest.param("0::/\n", V2_MOUNTS, 2, ["/sys/fs/cgroup"], id="v2 in a container"),
        pytest.param("0::/../other\n", V2_MOUNTS, 2, ["/sys/fs/cgroup"], id="v2 outside its view"),
        pytest.param(
            "0::/a\n",
            "9 8 0:1 / /my\\040disk rw - cgroup2 none rw\n",
            2,
            ["/my disk/a", "/my disk"],
            id="a mount point with a blank",
        ),
        pytest.param(
            "0::/pod/a\n",
            "8 1 0:1 /else /first rw - cgroup2 none rw\n9 1 0:1 /pod /second rw - cgroup2 none rw\n",
            2,
            ["/second/a", "/second"],
            id="two mounts, of which one holds the group",
        ),
    ],
)
def test_control_groups_are_found(
    membership: str, mounts: str, version: int, folders: list[str]
) -> None:
    """The folders of the process's group and of all above it, up to the mount point."""
    found = limits.find_cgroups(membership, mounts)
    assert found is not None
    assert version == found.version
    assert folders == [path.as_posix() for path in found.folders]


@pytest.mark.parametrize(
    ("membership", "mounts"),
    [("", ""), ("0::/\n", ""), ("5:cpu:/a\n", HYBRID_MOUNTS), ("no colons\n", "no mount\n")],
)
def test_without_control_groups_there_is_none(membership: str, mounts: str) -> None:
    """No file, no mount, or no controller of memory: no group, and no error."""
    assert limits.find_cgroups(membership, mounts) is None


def plant(folder: Path, **files: str) -> Path:
    """Write the files of a control group."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("memory_", "memory.")).write_text(text)
    return folder


def test_page_cache_does_not_count_in_v2(tmp_path: Path) -> None:
    """400 MiB are charged, 160 MiB of them are cache that the kernel takes back: 240 count."""
    plant(tmp_path, memory_max="536870912\n", memory_current="419430400\n", memory_stat=V2_STAT)
    assert Limit(512 * MIB, 240 * MIB) == limits.read_cgroup(tmp_path, 2)


def test_page_cache_does_not_count_in_v1(tmp_path: Path) -> None:
    """The totals count, which hold the groups below as well."""
    files = {"memory_limit_in_bytes": "536870912\n", "memory_usage_in_bytes": "419430400\n"}
    plant(tmp_path, **files, memory_stat=V1_STAT)
    assert Limit(512 * MIB, 250 * MIB) == limits.read_cgroup(tmp_path, 1)


@pytest.mark.parametrize("text", ["max\n", "9223372036854771712\n", "9223372036854710272\n", ""])
def test_no_limit_is_none(text: str) -> None:
    """The words for "no limit" of v2, and of v1 with pages of 4 and 64 KiB."""
    assert limits.parse_limit(text) is None


def test_a_group_without_files_has_no_limit(tmp_path: Path) -> None:
    """The root of v2, a group without the controller, and a folder that is not mounted."""
    assert limits.read_cgroup(tmp_path, 2) is None
    assert limits.read_cgroup(plant(tmp_path, memory_max="536870912\n"), 2) is None
    assert limits.read_cgroup(tmp_path / "gone", 1) is None


def test_cache_that_grew_since_is_no_negative_use(tmp_path: Path) -> None:
    """The statistics are read after the total, and may be larger."""
    plant(tmp_path, memory_max="536870912", memory_current="1000", memory_stat=V2_STAT)
    assert Limit(512 * MIB, 0) == limits.read_cgroup(tmp_path, 2)


def test_the_limit_with_the_least_room_counts() -> None:
    """A large limit that is nearly used up goes before a small one that is not."""
    machine, group, parent = Limit(1000, 100), Limit(500, 100), Limit(900, 700)
    assert parent == limits.tightest(machine, None, group, parent)
    assert machine == limits.tightest(machine, None)
    assert limits.tightest(None, None) is None


def test_a_group_above_may_be_the_tightest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod's limit bounds a container without one, and a sample reports it."""
    pod = plant(tmp_path / "pod", memory_max="1000000\n", memory_current="900000\n")
    own = plant(pod / "own", memory_max="max\n", memory_current="1\n")
    monkeypatch.setattr(sampling, "find_cgroups", lambda *_: Cgroups(2, (own, pod, tmp_path)))
    sample = Sampler().take()
    assert (1000000, 900000) == (sample.limit_bytes, sample.limit_used_bytes)
    assert 100000 == sample.room_bytes


@on_linux
def test_the_limit_of_addresses_is_reported_and_torch_is_not_loaded() -> None:
    """Under a real RLIMIT_AS that is the limit, VmSize counts, and asking for cuda loads nothing."""
    script = """
import resource, sys
from safe_embed.memory.sampling import parse_status, take_sample
resource.setrlimit(resource.RLIMIT_AS, (2**31, resource.RLIM_INFINITY))
sample = take_sample("cuda:0")
size = parse_status(open("/proc/self/status").read())["VmSize"]
assert sample.limit_bytes == 2**31, sample
assert abs(sample.limit_used_bytes - size) < 2**23, (sample, size)
assert sample.device_used_bytes is None
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "" == done.stderr


def test_the_machine_bounds_a_process_that_nothing_else_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without control group and RLIMIT_AS the limit is the machine's memory."""
    monkeypatch.setattr(sampling, "find_cgroups", lambda *_: None)
    monkeypatch.setattr(sampling, "address_space_limit", lambda *_: None)
    sample = take_sample()
    machine = sampling.machine_limit()
    assert machine is not None
    assert machine.limit_bytes == sample.limit_bytes
    assert 0 < (sample.limit_used_bytes or 0) < (sample.limit_bytes or 0)


def unbounded(monkeypatch: pytest.MonkeyPatch, proc: Path, own: Path | None = None) -> None:
    """Let psutil find its files in *proc*, us in *own*, and nothing but the machine be a limit."""
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(proc))
    monkeypatch.setattr(sampling, "find_cgroups", lambda *_: None)
    monkeypatch.setattr(sampling, "address_space_limit", lambda *_: None)
    if own is not None:
        monkeypatch.setattr(sampling, "_PROC", own)


@on_linux
@pytest.mark.parametrize("meminfo", [None, "", "MemTotal: 7 kB\n", "no: figure\n", "\n"])
def test_a_machine_that_does_not_tell_its_memory_has_no_limit(
    meminfo: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ProcSubset=pid there is no /proc/meminfo, and some sandboxes leave it bare: None, no error."""
    (tmp_path / str(os.getpid())).symlink_to("/proc/self")
    if meminfo is not None:
        (tmp_path / "meminfo").write_text(meminfo)
    unbounded(monkeypatch, tmp_path)
    sample = take_sample()
    assert sampling.machine_limit() is None
    assert (None, None, None) == (sample.limit_bytes, sample.limit_used_bytes, sample.room_bytes)
    assert (sample.held_bytes or 0) > MIB


@on_linux
def test_a_machine_that_does_not_tell_leaves_the_other_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control group's limit counts where the machine's memory is not known."""
    unbounded(monkeypatch, tmp_path)
    group = plant(tmp_path / "group", memory_max="1000000\n", memory_current="900000\n")
    monkeypatch.setattr(sampling, "find_cgroups", lambda *_: Cgroups(2, (group,)))
    sample = take_sample()
    assert (1000000, 900000) == (sample.limit_bytes, sample.limit_used_bytes)


@on_linux
def test_without_proc_nothing_is_told_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a chroot without /proc every figure that comes from there is None."""
    unbounded(monkeypatch, tmp_path, tmp_path / "self")
    sample = take_sample()
    names = ("rss_anon_bytes", "footprint_bytes", "held_bytes", "native_threads", "limit_bytes")
    assert [None] * 5 == [getattr(sample, name) for name in names]
    assert sampling.anonymous_bytes() is None


@on_linux
def test_what_can_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where status alone may not be read, RSS is the footprint, and threads are not known."""
    own = tmp_path / str(os.getpid())
    own.mkdir()
    for name in ("stat", "statm"):
        (own / name).symlink_to(f"/proc/self/{name}")
    unbounded(monkeypatch, tmp_path, own)
    sample = take_sample()
    assert (sample.footprint_bytes or 0) > MIB
    assert sample.native_threads is None


@on_linux
def test_an_encoder_works_where_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without /proc an encoder is made, embeds, reloads and tells what it knows, under any policy."""
    path = models.saved("small", models.small_folder())
    unbounded(monkeypatch, tmp_path, tmp_path / "self")
    policy = policies.default_policy() | policies.MemoryAbove("1 MiB") | policies.EveryCalls(3)
    with SafeEncoder(path, reload=policy) as encoder:
        for _ in range(WARM_UP_CALLS + 2):
            vector = encoder.encode("吾輩は猫である。")
        encoder.reload()
        np.testing.assert_allclose(encoder.encode("吾輩は猫である。"), vector, atol=1e-6)
        stats = encoder.stats
    assert stats.reloads > 1
    assert stats.sample.held_bytes is None
    assert {"remedy"} == {event.kind for event in stats.events}


@pytest.mark.parametrize("used", ["", "max\n", "many"])
def test_a_group_that_does_not_tell_its_use_is_no_limit(used: str, tmp_path: Path) -> None:
    """A file of the kernel that holds no number is as one that is not there."""
    plant(tmp_path, memory_max="1000\n", memory_current=used)
    assert limits.read_cgroup(tmp_path, 2) is None


@on_linux
def test_planted_growth_is_seen_and_seen_to_go() -> None:
    """64 MiB that are allocated and written to are anonymous memory until they are freed."""
    libc = ctypes.CDLL(None)
    sampler = Sampler()
    getattr(libc, "malloc_trim", lambda _: 0)(0)  # what other tests have left free goes first
    before = sampler.take(fresh=True)
    block = bytearray(b"\1") * (64 * MIB)
    during = sampler.take(fresh=True)
    del block
    getattr(libc, "malloc_trim", lambda _: 0)(0)
    after = sampler.take(fresh=True)
    assert 64 * MIB == pytest.approx(held(during) - held(before), abs=4 * MIB)
    assert 0 == pytest.approx(held(after) - held(before), abs=4 * MIB)
    assert (during.peak_bytes or 0) >= held(before) + 60 * MIB


def held(sample: sampling.MemorySample) -> int:
    """What a sample says is held; it must say it."""
    assert sample.rss_anon_bytes is not None
    assert sample.held_bytes == sample.rss_anon_bytes
    return sample.rss_anon_bytes


@on_linux
def test_a_mapped_file_is_no_anonymous_memory(tmp_path: Path) -> None:
    """64 MiB of a mapped file that were read are in RssFile (RssShmem if the folder is in memory)."""
    path = tmp_path / "weights"
    path.write_bytes(b"w" * (64 * MIB))
    before = take_sample()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert 64 * MIB // mmap.PAGESIZE == mapped[:: mmap.PAGESIZE].count(b"w")
        during = take_sample()
    assert 64 * MIB == pytest.approx(mapped_bytes(during) - mapped_bytes(before), abs=4 * MIB)
    assert 0 == pytest.approx(held(during) - held(before), abs=4 * MIB)


def mapped_bytes(sample: sampling.MemorySample) -> int:
    """Pages of files."""
    return (sample.rss_file_bytes or 0) + (sample.rss_shmem_bytes or 0)


def test_threads_are_counted() -> None:
    """Five threads more are five threads more."""
    end = threading.Event()
    before = take_sample().native_threads
    threads = [threading.Thread(target=end.wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    during = take_sample().native_threads
    end.set()
    for thread in threads:
        thread.join()
    assert before is not None
    assert before + 5 == during


def test_a_young_sample_is_given_again() -> None:
    """Within min_seconds the same sample comes back, unless a fresh one is asked for."""
    sampler = Sampler(min_seconds=60)
    first = sampler.take()
    assert first is sampler.take()
    fresh = sampler.take(fresh=True)
    assert fresh is not first
    assert fresh.elapsed_seconds > first.elapsed_seconds
    assert fresh is sampler.take()


def test_an_old_sample_is_not_given_again() -> None:
    """With min_seconds=0 each sample is new."""
    sampler = Sampler(min_seconds=0)
    assert sampler.take() is not sampler.take()


def test_a_costly_figure_is_read_seldom() -> None:
    """What costs 2 s of processor time is read again after 2,000 s; fresh reads it anew."""
    now, spent, reads = [100.0], iter(range(0, 100, 2)), iter(range(1, 100))
    seldom = sampling._Seldom(lambda: next(reads), 0, lambda: now[0], lambda: float(next(spent)))
    assert 1 == seldom.get(fresh=False)
    now[0] += 1_999
    assert 1 == seldom.get(fresh=False)
    now[0] += 1
    assert 2 == seldom.get(fresh=False)
    assert 3 == seldom.get(fresh=True)
    assert 3 == seldom.get(fresh=False)


def test_time_that_others_had_the_processor_costs_nothing() -> None:
    """A limit is read as often on a busy machine, where a reading waits 300 s for the processor."""
    now, reads = [100.0], iter(range(1, 100))

    def read() -> int:
        now[0] += 300
        return next(reads)

    seldom = sampling._Seldom(read, 1, lambda: now[0])
    assert 1 == seldom.get(fresh=False)
    now[0] += 0.5
    assert 1 == seldom.get(fresh=False)
    now[0] += 0.5
    assert 2 == seldom.get(fresh=False)


@pytest.mark.parametrize("arguments", [{"min_seconds": -1}, {"costly_seconds": -0.1}])
def test_a_negative_time_is_refused(arguments: dict[str, float]) -> None:
    """A time below 0 is a mistake."""
    with pytest.raises(ConfigError, match="give 0 or more"):
        Sampler(**arguments)


def test_the_memory_of_cuda_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allocated is used, and what is reserved besides is kept; the device's index is passed on."""
    stats = {"allocated_bytes.all.current": 300, "reserved_bytes.all.current": 512}
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        memory_stats=lambda device: stats if device == "cuda:1" else {},
        mem_get_info=lambda device: (700, 1212) if device == "cuda:1" else (0, 0),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    sample = take_sample("cuda:1")
    figures = (sample.device_used_bytes, sample.device_kept_bytes, sample.device_free_bytes)
    assert (300, 212, 700) == figures


def test_a_device_that_was_not_started_has_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """None, not 0; and reading must not start it."""
    torch = SimpleNamespace(
        cuda=SimpleNamespace(is_initialized=lambda: False),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: False)),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    for device in ("cuda", "mps", "cpu", None):
        assert {} == sampling.device_figures(device)


def test_the_memory_of_mps_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Current is used, and what the driver holds besides is kept."""
    torch = SimpleNamespace(
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: True)),
        mps=SimpleNamespace(
            current_allocated_memory=lambda: 100, driver_allocated_memory=lambda: 150
        ),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    sample = take_sample("mps")
    assert (100, 50) == (sample.device_used_bytes, sample.device_kept_bytes)


def test_a_path_is_kept_as_it_is() -> None:
    """A group of version 1 may have colons in its name."""
    assert (1, PurePosixPath("/a:b")) == limits.parse_membership("4:memory:/a:b\n")
