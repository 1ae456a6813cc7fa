"""``safe-embed encode``: files become files, bad rows are rejected, other settings are refused."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import models
import process_models
from safe_embed import SafeEncoder
from safe_embed.cli import app as cli
from safe_embed.jobs import run as jobs_run
from safe_embed.jobs.checkpoint import Checkpoint
from safe_embed.jobs.rows import MOST_BYTES, REASONS
from safe_embed.search import Calibration

ROOT = Path(__file__).parent.parent
TEXTS = ["春が来た。", models.long_text(12), "", '改行\nと,"引用符"。', "𠮷野家で食べた。"]
IDS = ["a", "b", "c", "d", "e"]
LOADED = "import sys, runpy; sys.argv = ['safe-embed', 'encode', '--help']\ntry:\n    runpy.run_module('safe_embed', run_name='__main__')\nexcept SystemExit: pass\nprint([n for n in ('torch', 'transformers', 'pyarrow', 'numpy') if n in sys.modules])"


class Done(NamedTuple):
    """What a command has left."""

    status: object
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    saved: Path,
    tmp_path: Path,
) -> Run:
    """Run ``safe-embed encode`` with the small model as the console script does, in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, stdin: bytes = b"", model: Path = saved) -> Done:
        words = ["safe-embed", "encode", *map(str, arguments), "--model", str(model)]
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "ascii", "ignore"))
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return Done(caught.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def encoder(saved: Path) -> Iterable[SafeEncoder]:
    """The same model, called by hand."""
    with SafeEncoder(saved, reload=None) as encoder:
        yield encoder


def lines(*values: object) -> str:
    """JSONL of some values."""
    return "".join(f"{json.dumps(value, ensure_ascii=False)}\n" for value in values)


def rows(texts: Iterable[str] = TEXTS, ids: Iterable[object] = IDS) -> list[dict[str, object]]:
    """Rows with ids."""
    return [{"id": one, "text": text} for one, text in zip(ids, texts, strict=True)]


def columns(path: Path) -> dict[str, list[Any]]:
    """All of a Parquet file, by column."""
    values: dict[str, list[Any]] = pq.read_table(path).to_pydict()
    return values


def rejects(output: str) -> list[tuple[int, str | None, str]]:
    """Row, id and reason of each rejected row."""
    read = Path(f"{output}.rejects.jsonl").read_text(encoding="utf-8").splitlines()
    return [(one["row"], one["id"], one["reason"]) for one in map(json.loads, read)]


def write_csv(path: Path, delimiter: str, encoding: str = "utf-8") -> None:
    """The rows as a table."""
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, ["id", "text"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows())


def write_folder(path: Path) -> None:
    """The rows as files; others lie between them."""
    (path / "deep").mkdir(parents=True)
    for one, text in zip(IDS, TEXTS, strict=True):
        (path / ("deep" if one > "c" else ".") / f"{one}.txt").write_text(text, encoding="utf-8")
    (path / "c.txt").rename(path / "c.md")
    (path / "other.html").write_text("<p>")
    (path / ".hidden.txt").write_text("x")


@pytest.mark.parametrize("kind", ["in.jsonl", "in.csv", "in.tsv", "in.parquet", "in"])
def test_each_input_gives_the_vectors_of_its_texts(
    kind: str, run: Run, encoder: SafeEncoder, tmp_path: Path
) -> None:
    """In order, with ids, and as encode_document gives them: a long text too."""
    path = tmp_path / kind
    if kind == "in.jsonl":
        path.write_text(lines(*rows()), encoding="utf-8")
    elif kind == "in.parquet":
        pq.write_table(pa.Table.from_pylist(rows()), path)
    elif kind == "in":
        write_folder(path)
    else:
        write_csv(path, "\t" if kind == "in.tsv" else ",")
    done = run(path, "out.parquet")
    assert 0 == done.status, done.err
    found = columns(tmp_path / "out.parquet")
    names = ["a.txt", "b.txt", "c.md", "deep/d.txt", "deep/e.txt"]
    assert (names if kind == "in" else IDS) == found["id"]
    expected = encoder.encode_document(TEXTS)
    np.testing.assert_allclose(found["vector"], expected, atol=1e-5)
    assert {path.name, "out.parquet"} == {each.name for each in tmp_path.iterdir()}


def test_standard_input_is_read(run: Run, encoder: SafeEncoder, tmp_path: Path) -> None:
    """JSONL, or CSV if that is said; it cannot be resumed, which is said before anything is read."""
    assert 0 == run("-", "a.parquet", stdin=lines(*rows()).encode()).status
    write_csv(tmp_path / "in.csv", ",")
    table = (tmp_path / "in.csv").read_bytes()
    assert 0 == run("-", "b.parquet", "--input-format", "csv", stdin=table).status
    assert columns(tmp_path / "a.parquet") == columns(tmp_path / "b.parquet")
    done = run("-", "c.parquet", "--resume", stdin=lines(*rows()).encode())
    assert 2 == done.status
    assert "standard input" in done.err
    assert "標準入力" in done.err


def test_jsonl_and_npy_hold_what_parquet_holds(run: Run, tmp_path: Path) -> None:
    """Vectors, ids and settings; what has no place in the file lies beside it."""
    (tmp_path / "in.jsonl").write_text(lines(*rows()), encoding="utf-8")
    for name in ("out.parquet", "out.jsonl", "out.npy"):
        assert 0 == run("in.jsonl", name, "--chunks", "--rows-per-part", "2").status
    expected = columns(tmp_path / "out.parquet")
    written = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in written]
    assert expected == {name: [row[name] for row in found] for name in expected}
    vectors = np.load(tmp_path / "out.npy")
    np.testing.assert_array_equal(np.array(expected.pop("vector"), np.float32), vectors)
    beside = (tmp_path / "out.npy.rows.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in beside]
    assert expected == {name: [row[name] for row in found] for name in expected}
    for name in ("out.jsonl", "out.npy"):
        settings = json.loads((tmp_path / f"{name}.meta.json").read_text(encoding="utf-8"))
        assert ("float32", "punctuation", "mean", "chunks") == tuple(
            settings[key] for key in ("dtype", "splitter", "pooling", "rows")
        )


def test_chunks_have_spans_and_texts(run: Run, encoder: SafeEncoder, tmp_path: Path) -> None:
    """A row a chunk, as encode_chunks gives them; together they are the text."""
    (tmp_path / "in.jsonl").write_text(lines(*rows()), encoding="utf-8")
    assert 0 == run("in.jsonl", "out.parquet", "--chunks", "--max-chunk-tokens", "32").status
    found = columns(tmp_path / "out.parquet")
    chunked = encoder.encode_chunks(TEXTS, prompt_name=None, max_chunk_tokens=32)
    spans = [tuple(span) for text in chunked for span in text.spans]
    assert spans == list(zip(found["start"], found["end"], strict=True))
    assert len(spans) > len(TEXTS)
    assert [n for text in chunked for n in text.token_counts] == found["tokens"]
    vectors = np.concatenate([text.vectors for text in chunked])
    np.testing.assert_allclose(found["vector"], vectors, atol=1e-5)
    for one, text in zip(IDS, TEXTS, strict=True):
        mine = [at for at, known in enumerate(found["id"]) if known == one]
        assert list(range(len(mine))) == [found["chunk"][at] for at in mine]
        assert text == "".join(found["text"][at] for at in mine)


@pytest.mark.parametrize("bits", [1, 8])
def test_chunks_are_packed(bits: Any, run: Run, encoder: SafeEncoder, tmp_path: Path) -> None:
    """With a calibration the codes are those of encode_chunks; another model's is refused."""
    (tmp_path / "in.jsonl").write_text(lines(*rows()), encoding="utf-8")
    calibration = Calibration.fit(encoder.encode_chunks([models.long_text(60)]))
    calibration.save(tmp_path / "known.npz")
    packing = ("--chunks", "--calibration", "known.npz", "--bits", str(bits))
    assert 0 == run("in.jsonl", "out.parquet", *packing).status
    expected = encoder.encode_chunks(TEXTS, calibration=calibration, bits=bits)
    codes = np.concatenate([text.codes for text in expected])
    found = np.array(columns(tmp_path / "out.parquet")["codes"], codes.dtype)
    assert codes.shape == found.shape
    # A number on the border between two levels may fall to either side in another batch.
    assert (codes == found).mean() > 0.99
    Calibration(calibration.center, calibration.spread, 9, -encoder.fingerprint).save(
        tmp_path / "other.npz"
    )
    done = run("in.jsonl", "x.parquet", *packing[:2], "other.npz", *packing[3:])
    assert 2 == done.status
    assert "different models" in done.err
    assert not (tmp_path / "x.parquet.parts").exists()


@pytest.mark.parametrize(
    ("arguments", "english"),
    [
        (("--bits", "1"), "needs --calibration"),
        (("--calibration", "known.npz"), "Add --chunks"),
        (("--rows-per-part", "0"), "positive integer"),
        (("--text", "body"), "has no column 'body'"),
        (("--id", "key"), "has no column 'key'"),
        (("--input-format", "parquet"), "no Parquet file"),
        (("--max-chunk-tokens", "100000"), "max_chunk_tokens"),
    ],
)
def test_what_cannot_work_is_refused_at_once(
    arguments: tuple[str, ...], english: str, run: Run, tmp_path: Path
) -> None:
    """In both languages, status 2, and nothing is left behind."""
    write_csv(tmp_path / "in.csv", ",")
    done = run("in.csv", "out.parquet", *arguments)
    assert 2 == done.status
    assert english in done.err
    assert "さい" in done.err or "です" in done.err or "ません" in done.err
    assert ["in.csv"] == [each.name for each in tmp_path.iterdir()]


@pytest.mark.parametrize("output", ["out.txt", "gone/out.parquet", "in.csv"])
def test_an_output_that_cannot_be_written_is_refused(output: str, run: Run, tmp_path: Path) -> None:
    """Another suffix, a folder that is not there, and a file that is."""
    write_csv(tmp_path / "in.csv", ",")
    before = (tmp_path / "in.csv").read_bytes()
    assert 2 == run("in.csv", output).status
    assert before == (tmp_path / "in.csv").read_bytes()


def test_bad_rows_of_jsonl_are_rejected(run: Run, encoder: SafeEncoder, tmp_path: Path) -> None:
    """Each with its line, its id and the reason, and without a text; all others are embedded."""
    private = "秘密の文"
    bad: list[tuple[str | None, str, bytes]] = [
        (None, "not_json", f'{{"text": "{private}"'.encode()),
        (None, "not_object", f'["{private}"]'.encode()),
        ("f", "no_text", b'{"id": "f"}'),
        ("g", "no_text", b'{"id": "g", "text": null}'),
        ("8", "text_type", b'{"id": 8, "text": 1.5}'),
        (None, "no_id", f'{{"text": "{private}"}}'.encode()),
        (None, "id_type", f'{{"id": true, "text": "{private}"}}'.encode()),
        ("i", "lone_surrogate", b'{"id": "i", "text": "\\ud83d"}'),
        (None, "lone_surrogate", b'{"id": "\\ud83d", "text": "a"}'),
        (None, "invalid_bytes", b'{"id": "j", "text": "\x83e"}'),
        (None, "too_long", b'{"id": "k", "text": "' + b"x" * MOST_BYTES + b'"}'),
    ]
    good = lines(*rows()).encode().splitlines()
    mixed = [*good[:3], *(line for *_, line in bad), b"", *good[3:]]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(mixed))
    done = run("in.jsonl", "out.parquet", "--rows-per-part", "4")
    assert 3 == done.status
    assert f"{len(bad)} were rejected" in done.err
    found = columns(tmp_path / "out.parquet")
    assert IDS == found["id"]
    np.testing.assert_allclose(found["vector"], encoder.encode_document(TEXTS), atol=1e-5)
    expected = [(at, one, reason) for at, (one, reason, _) in enumerate(bad, 4)]
    assert expected == rejects("out.parquet")
    written = (tmp_path / "out.parquet.rejects.jsonl").read_text(encoding="utf-8")
    assert private not in written + done.err
    assert {reason for _, reason, _ in bad} <= set(REASONS)


def test_bad_rows_of_a_table_are_rejected(run: Run, tmp_path: Path) -> None:
    """Wrong columns and quotation marks; a mark that is never closed takes no more than its lines."""
    table = 'id,text\n1,よい\n2\n3,一,二\n4,"あ"い\n5,"二行\nある"\n6,よい\n7,"閉じない\n8,続き\n'
    (tmp_path / "in.csv").write_text(table, encoding="utf-8")
    assert 3 == run("in.csv", "out.parquet").status
    assert ["1", "5", "6"] == columns(tmp_path / "out.parquet")["id"]
    assert [(n, None, "not_csv") for n in (2, 3, 4, 7)] == rejects("out.parquet")
    written = (tmp_path / "out.parquet.rejects.jsonl").read_text(encoding="utf-8").splitlines()
    assert [[3, 3], [4, 4], [5, 5], [9, 10]] == [json.loads(line)["lines"] for line in written]


@pytest.mark.parametrize("first", ["[\n", " " * 2**21], ids=["bad", "longer than is looked at"])
def test_the_first_line_does_not_change_the_ids(first: str, run: Run, tmp_path: Path) -> None:
    """The column of the ids is known by the first line that is an object, however late it ends."""
    (tmp_path / "in.jsonl").write_text(f"{first}{lines(*rows())}", encoding="utf-8")
    assert run("in.jsonl", "out.parquet").status in {0, 3}
    assert IDS == columns(tmp_path / "out.parquet")["id"]


def test_nothing_becomes_an_empty_output(run: Run, tmp_path: Path) -> None:
    """With the columns of a full one."""
    (tmp_path / "in.jsonl").touch()
    for output in ("out.parquet", "out.npy", "out.jsonl"):
        assert 0 == run("in.jsonl", output, "--chunks").status
    assert {"id", "chunk", "start", "end", "tokens", "text", "vector"} == set(
        pq.read_schema(tmp_path / "out.parquet").names
    )
    assert (0, 32) == np.load(tmp_path / "out.npy").shape
    assert b"" == (tmp_path / "out.jsonl").read_bytes()


def test_a_long_field_of_a_table_is_a_text(run: Run, tmp_path: Path) -> None:
    """Python's own limit of 128 KiB a field is none here."""
    text = "長い文です。" * 30_000
    (tmp_path / "in.csv").write_text(f"text\n{text}\n", encoding="utf-8")
    assert 0 == run("in.csv", "out.parquet", "--chunks").status
    assert text == "".join(columns(tmp_path / "out.parquet")["text"])


def test_bad_rows_of_parquet_are_rejected(run: Run, tmp_path: Path) -> None:
    """Null texts and null ids; integers are ids, too."""
    table = pa.table({"key": [1, 2, None], "body": ["一", None, "三"], "other": [0, 0, 0]})
    pq.write_table(table, tmp_path / "in.parquet")
    done = run("in.parquet", "out.parquet", "--text", "body", "--id", "key")
    assert 3 == done.status
    assert ["1"] == columns(tmp_path / "out.parquet")["id"]
    assert [(2, "2", "no_text"), (3, None, "no_id")] == rejects("out.parquet")


def test_a_damaged_parquet_file_is_explained(run: Run, tmp_path: Path) -> None:
    """What was embedded before the damage is kept."""
    texts = [models.long_text(2, number) for number in range(3000)]
    table = pa.table({"text": texts})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=1000, use_dictionary=False)
    data = bytearray((tmp_path / "in.parquet").read_bytes())
    middle = pq.read_metadata(tmp_path / "in.parquet").row_group(2).column(0).data_page_offset
    data[middle : middle + 4000] = b"\xff" * 4000
    (tmp_path / "in.parquet").write_bytes(data)
    done = run("in.parquet", "out.parquet", "--rows-per-part", "500")
    assert 2 == done.status
    assert "in.parquet cannot be read or written" in done.err
    assert 4 == len(list((tmp_path / "out.parquet.parts").glob("part-*")))


def test_bad_files_of_a_folder_are_rejected(run: Run, tmp_path: Path) -> None:
    """A file in another encoding, and a link that leads nowhere, by their names."""
    write_folder(tmp_path / "in")
    (tmp_path / "in" / "b.txt").write_bytes("別の文字コード".encode("cp932"))
    (tmp_path / "in" / "z.txt").symlink_to("gone")
    assert 3 == run("in", "out.parquet").status
    assert [(2, "b.txt", "invalid_bytes"), (4, "z.txt", "unreadable")] == rejects("out.parquet")
    assert 4 == len(columns(tmp_path / "out.parquet")["id"])


def test_rejects_of_an_earlier_run_are_gone(run: Run, tmp_path: Path) -> None:
    """The rejects file is that of the output beside it."""
    (tmp_path / "in.jsonl").write_text("[]\n", encoding="utf-8")
    assert 3 == run("in.jsonl", "out.parquet").status
    assert [] == columns(tmp_path / "out.parquet")["id"]
    (tmp_path / "out.parquet").unlink()
    (tmp_path / "in.jsonl").write_text(lines(*rows()), encoding="utf-8")
    assert 0 == run("in.jsonl", "out.parquet").status
    assert not (tmp_path / "out.parquet.rejects.jsonl").exists()


def test_strict_stops_at_a_bad_row(run: Run, tmp_path: Path) -> None:
    """With status 4 and its number; without --strict the run goes on from there."""
    good = lines(*rows())
    (tmp_path / "in.jsonl").write_text(f"{good}[]\n{good}", encoding="utf-8")
    arguments = ("in.jsonl", "out.parquet", "--rows-per-part", "2")
    done = run(*arguments, "--strict")
    assert 4 == done.status
    assert "Row 6: " in done.err
    assert "6 行目" in done.err
    assert not (tmp_path / "out.parquet").exists()
    assert 3 == run(*arguments, "--resume").status
    assert IDS * 2 == columns(tmp_path / "out.parquet")["id"]


ENCODED = {
    "utf-8-sig": ("utf-8", "utf-8"),
    "cp932": ("cp932", "CP932"),
    "euc_jp": ("euc-jp", "EUC-JP"),
}


@pytest.mark.parametrize("codec", ENCODED)
@pytest.mark.parametrize("kind", ["in.jsonl", "in.csv", "in"])
def test_encodings_are_named(codec: str, kind: str, run: Run, tmp_path: Path) -> None:
    """A text is the same in each; one that is not named is refused with the option to type."""
    name, seems = ENCODED[codec]
    plain = ["春が来た。花が咲く。", "東京の人口は約千四百万人です。"]
    for folder, used in ((tmp_path / "one", "utf-8"), (tmp_path / "two", codec)):
        folder.mkdir()
        if kind == "in.jsonl":
            (folder / kind).write_bytes(lines(*rows(plain, "ab")).encode(used))
        elif kind == "in.csv":
            table = "".join(f"{one},{text}\n" for one, text in zip("ab", plain, strict=True))
            (folder / kind).write_bytes(f"id,text\n{table}".encode(used))
        else:
            (folder / kind).mkdir()
            for one, text in zip("ab", plain, strict=True):
                (folder / kind / f"{one}.txt").write_bytes(text.encode(used))
    arguments = ("--chunks", "--encoding")
    assert 0 == run(f"one/{kind}", "one.parquet", *arguments, "utf-8").status
    done = run(f"two/{kind}", "two.parquet", *arguments, name)
    assert 0 == done.status, done.err
    assert columns(tmp_path / "one.parquet") == columns(tmp_path / "two.parquet")
    if codec == "utf-8-sig":
        assert kind == "in" or "with a byte order mark" in done.err
        return
    unnamed = run(f"two/{kind}", "x.parquet")
    if kind == "in":  # each file is looked at by itself
        assert 3 == unnamed.status
        assert ["invalid_bytes"] * 2 == [reason for *_, reason in rejects("x.parquet")]
        return
    assert 2 == unnamed.status
    assert f"--encoding {seems.lower()}" in unnamed.err
    assert f"{seems} のようです" in unnamed.err
    misnamed = run(f"one/{kind}", "x.parquet", "--encoding", name)
    assert 2 == misnamed.status
    assert "--encoding utf-8" in misnamed.err


@pytest.mark.parametrize("codec", ["utf-16", "utf-32"])
def test_wide_encodings_are_refused_by_name(codec: str, run: Run, tmp_path: Path) -> None:
    """With the command that converts them."""
    (tmp_path / "in.jsonl").write_bytes(lines(*rows()).encode(codec))
    done = run("in.jsonl", "out.parquet")
    assert 2 == done.status
    assert f"iconv -f {codec.upper()} -t UTF-8" in done.err


def test_the_first_line_alone_has_a_byte_order_mark(run: Run, tmp_path: Path) -> None:
    """It is in no text, and a mark within a text stays there."""
    text = "\ufeff文"
    data = codecs.BOM_UTF8 + lines({"text": text}).encode()
    (tmp_path / "in.jsonl").write_bytes(data)
    assert 0 == run("in.jsonl", "out.parquet", "--chunks").status
    assert ["1"] == columns(tmp_path / "out.parquet")["id"]
    assert [text] == columns(tmp_path / "out.parquet")["text"]


def unfinished(run: Run, path: Path, **options: Path) -> None:
    """Leave a run after its first parts, by a row that --strict does not take."""
    path.write_text(lines(*rows()) * 2 + "[]\n", encoding="utf-8")
    done = run(path, "out.parquet", "--rows-per-part", "4", "--strict", **options)
    assert 4 == done.status


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--splitter", "morphemes"), "splitter"),
        (("--pooling", "max"), "pooling"),
        (("--task", "query"), "task"),
        (("--chunks",), "rows"),
        (("--normalize",), "normalize"),
        (("--max-chunk-tokens", "32"), "max_chunk_tokens"),
    ],
)
def test_resuming_with_other_settings_is_refused(
    arguments: tuple[str, ...], named: str, run: Run, tmp_path: Path
) -> None:
    """The setting is named; with the same settings the run goes on."""
    unfinished(run, tmp_path / "in.jsonl")
    done = run("in.jsonl", "out.parquet", "--resume", *arguments)
    assert 2 == done.status
    assert f"other settings: {named}." in done.err
    assert f"（{named}）" in done.err
    assert 3 == run("in.jsonl", "out.parquet", "--resume").status
    assert IDS * 2 == columns(tmp_path / "out.parquet")["id"]


def test_resuming_with_another_model_is_refused(run: Run, tmp_path: Path) -> None:
    """Another folder by its name; other weights in the same folder by what they give."""
    own = tmp_path / "model"
    models.small().save(str(own))
    unfinished(run, tmp_path / "in.jsonl", model=own)
    assert "settings: model" in run("in.jsonl", "out.parquet", "--resume").err
    other = models.small()
    other[0].auto_model.embeddings.word_embeddings.weight.data.mul_(-1)
    other.save(str(own))
    done = run("in.jsonl", "out.parquet", "--resume", model=own)
    assert 2 == done.status
    assert "fingerprint of the model" in done.err


def test_resuming_with_another_revision_is_refused(
    run: Run, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a name on a hub, whose revision is in the metadata, and may change between two runs."""
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--someone--small"
    (repository / "refs").mkdir(parents=True)
    for revision in ("1" * 40, "2" * 40):
        shutil.copytree(saved, repository / "snapshots" / revision)
    (repository / "refs" / "main").write_text("1" * 40)
    named = Path("someone/small")
    unfinished(run, tmp_path / "in.jsonl", model=named)
    (repository / "refs" / "main").write_text("2" * 40)
    done = run("in.jsonl", "out.parquet", "--resume", model=named)
    assert 2 == done.status
    assert "other settings: revision." in done.err
    (repository / "refs" / "main").write_text("1" * 40)
    assert 3 == run("in.jsonl", "out.parquet", "--resume", model=named).status
    metadata = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"safe_embed"])
    assert ("someone/small", "1" * 40) == (metadata["model"], metadata["revision"])


def test_resuming_with_other_versions_is_refused(run: Run, tmp_path: Path) -> None:
    """The package is named."""
    unfinished(run, tmp_path / "in.jsonl")
    path = tmp_path / "out.parquet.parts" / "settings.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["versions"]["transformers"] = "4.0.0"
    path.write_text(json.dumps(settings), encoding="utf-8")
    done = run("in.jsonl", "out.parquet", "--resume")
    assert 2 == done.status
    assert "version of transformers" in done.err


@pytest.mark.parametrize("kind", ["in.jsonl", "in"])
def test_resuming_with_another_input_is_refused(kind: str, run: Run, tmp_path: Path) -> None:
    """Also a folder that has one file more."""
    path = tmp_path / kind
    if kind == "in":
        write_folder(path)
        (path / "z.txt").write_bytes(b"\xff")
        arguments = ("--rows-per-part", "2", "--strict")
        assert 4 == run("in", "out.parquet", *arguments).status
        (path / "more.txt").write_text("x")
    else:
        unfinished(run, path)
        with path.open("a") as file:
            file.write("\n")
    done = run(kind, "out.parquet", "--resume")
    assert 2 == done.status
    assert "settings: input" in done.err


def test_an_unfinished_run_is_not_overwritten(run: Run, tmp_path: Path) -> None:
    """Without --resume both ways out are named; nor is a run of another process."""
    unfinished(run, tmp_path / "in.jsonl")
    done = run("in.jsonl", "out.parquet")
    assert 2 == done.status
    assert "--resume" in done.err
    with Checkpoint(tmp_path / "out.parquet", resume=True):
        done = run("in.jsonl", "out.parquet", "--resume")
    assert 2 == done.status
    assert "Another process writes out.parquet" in done.err


def test_a_complete_run_may_be_resumed(run: Run, tmp_path: Path) -> None:
    """It says so, changes nothing, and clears what a kill has left; so a loop of restarts ends."""
    (tmp_path / "in.jsonl").write_text(lines(*rows(), []), encoding="utf-8")
    assert 3 == run("in.jsonl", "out.parquet", "--resume").status
    before = (tmp_path / "out.parquet").read_bytes()
    (tmp_path / "out.parquet.parts").mkdir()
    done = run("in.jsonl", "out.parquet", "--resume")
    assert 3 == done.status
    assert "out.parquet is complete" in done.err
    assert before == (tmp_path / "out.parquet").read_bytes()
    assert not (tmp_path / "out.parquet.parts").exists()
    assert 2 == run("in.jsonl", "out.parquet", "--resume", "--normalize").status


def test_the_output_says_what_it_was_made_with(
    run: Run, encoder: SafeEncoder, saved: Path, tmp_path: Path
) -> None:
    """Model, revision, type, splitter, pooling and versions are in the metadata of Parquet."""
    (tmp_path / "in.jsonl").write_text(lines(*rows()), encoding="utf-8")
    assert 0 == run("in.jsonl", "out.parquet", "--task", "query").status
    metadata = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"safe_embed"])
    expected = {"model": str(saved), "revision": None, "dtype": "float32", "task": "query"}
    expected |= {"splitter": "punctuation", "pooling": "mean", "dimension": 32}
    expected |= {"prompt": "検索クエリ: ", "rows_read": 5, "rows_rejected": 0}
    assert expected == {name: metadata[name] for name in expected}
    assert {"torch", "transformers", "tokenizers", "safe-embed"} <= set(metadata["versions"])
    assert float(np.dot(metadata["fingerprint"], encoder.fingerprint)) > 0.999
    found = columns(tmp_path / "out.parquet")["vector"]
    np.testing.assert_allclose(found, encoder.encode_query(TEXTS), atol=1e-5)


@pytest.mark.usefixtures("forked_workers")
def test_a_text_that_ends_every_worker_is_rejected(
    run: Run, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are embedded; with --chunks, too."""
    loader = partial(process_models.harmful, str(saved), str(tmp_path))
    monkeypatch.setattr(
        jobs_run, "make_encoder", lambda job: SafeEncoder(loader, isolation="process")
    )
    texts = ["一つ目。", f"{process_models.POISON}。", "三つ目。"]
    (tmp_path / "in.jsonl").write_text(lines(*rows(texts, "abc")), encoding="utf-8")
    for output, arguments in (("a.parquet", ()), ("b.parquet", ("--chunks",))):
        assert 3 == run("in.jsonl", output, *arguments).status
        assert [(2, "b", "encoder")] == rejects(output)
        assert ["a", "c"] == columns(tmp_path / output)["id"]


def test_progress_tells_rate_time_and_memory(run: Run, tmp_path: Path) -> None:
    """And how the input is read, and that ids are row numbers, on standard error alone."""
    (tmp_path / "in.csv").write_text("text\n春。\n夏。\n", encoding="utf-8")
    done = run("in.csv", "out.parquet")
    assert (0, "") == (done.status, done.out)
    assert "csv, utf-8; ids: row numbers" in done.err
    last = next(line for line in done.err.splitlines() if line.startswith("2 rows"))
    for part in ("(100.0%)", "rows/s", "ETA 0:00:00", "RssAnon ", " MiB"):
        assert part in last
    assert ["1", "2"] == columns(tmp_path / "out.parquet")["id"]


def test_no_pyarrow_is_explained(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra to install, in both languages."""
    (tmp_path / "in.jsonl").write_text(lines(*rows()), encoding="utf-8")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = run("in.jsonl", "out.parquet")
    assert 2 == done.status
    assert done.err.count("pip install 'safe-embed[jobs]'") == 2


def test_help_loads_nothing_heavy() -> None:
    """Neither torch nor pyarrow, not even numpy."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    assert "[]" == done.stdout.splitlines()[-1]
    assert "--resume" in done.stdout


PAGES = [ROOT / "docs" / "encode_files.md", ROOT / "docs" / "ja" / "encode_files.md"]


@pytest.mark.parametrize("page", PAGES, ids=["en", "ja"])
def test_the_page_names_every_option_and_every_reason(page: Path, run: Run) -> None:
    """And no option that the command does not have."""
    text = page.read_text(encoding="utf-8")
    options = set(re.findall(r"--[a-z-]+", run("--help").out)) - {"--help"}
    assert options == set(re.findall(r"`(--[a-z-]+)", text))
    assert set(REASONS) == set(re.findall(r"^\| `([a-z_0-9]+)` \|", text, re.MULTILINE))
    assert ["0", "2", "3", "4", "130", "143"] == re.findall(r"^\| (\d+) \|", text, re.MULTILINE)
