"""The causes of growth, in words: what each is, and the cheapest remedy as a line to paste."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Self

from safe_embed.memory.sizes import format_mib


class Cause(StrEnum):
    """Why a process grows, or seems to."""

    FLAT = "flat"
    PLATEAU = "plateau"
    PAGED_IN = "paged in"
    TOKENIZER_CACHE = "tokenizer cache"
    ALLOCATOR = "allocator"
    ARENAS = "arenas"
    CALLING_THREADS = "calling threads"
    SHAPES = "shapes"
    SPLITTER_CACHE = "splitter cache"
    MAPPINGS = "mappings"
    PYTHON_OBJECTS = "python objects"
    FILE_DESCRIPTORS = "file descriptors"
    FORWARD = "forward"
    OUTSIDE = "outside"
    UNCLEAR = "unclear"


class Words(NamedTuple):
    """A cause in words: its name and what it means in two languages, and the line to paste."""

    name: str
    name_ja: str
    meaning: str
    meaning_ja: str
    remedy: str = ""


_TRIM = 'ctypes.CDLL("libc.so.6").malloc_trim(0)  # after each batch; import ctypes'
_SAFE_ENCODER = "encoder = safe_embed.SafeEncoder(model)"
_PROCESS = (
    'encoder = safe_embed.SafeEncoder(model, isolation="process", '
    'reload=safe_embed.MemoryGrowth("300 MiB"))'
)

WORDS: dict[Cause, Words] = {
    Cause.FLAT: Words(
        "flat",
        "増加なし",
        "Memory does not grow.",
        "メモリは増え続けていません。",
    ),
    Cause.PLATEAU: Words(
        "a cache that fills and stops",
        "上限のあるキャッシュ",
        "Memory rises and then stays. It is no leak; judge a longer run, not its first minutes.",
        "メモリは増えたあと一定になります。メモリリークではありません。最初の数分ではなく、長い実行で"
        "判断してください。",
    ),
    Cause.PAGED_IN: Words(
        "weights being paged in",
        "重みの読み込み（ページイン）",
        "Pages of mapped files (RssFile) grow, allocated memory (RssAnon) does not. The system "
        "takes them back when it needs them: no growth.",
        "増えるのはファイルのページ（RssFile）で、確保したメモリ（RssAnon）ではありません。必要になれば"
        "システムが回収します。増加とは数えません。",
        "grep RssAnon /proc/$PID/status  # watch this value in the place of RSS",
    ),
    Cause.TOKENIZER_CACHE: Words(
        "tokenizer cache without end",
        "トークナイザの無制限キャッシュ",
        "The tokenizer keeps what it reads: memory grows with every new text, and a new tokenizer "
        "gives it back. tokenizers up to 0.20.3 keep whole texts.",
        "トークナイザが読んだ文字列を保持しています。新しい文のたびに増え、トークナイザを作り直すと"
        "戻ります。tokenizers 0.20.3 までは文全体を保持します。",
        "pip install -U 'tokenizers>=0.21'  # newer already: safe_embed.SafeEncoder(model)",
    ),
    Cause.ALLOCATOR: Words(
        "memory kept by the allocator",
        "アロケータが保持する空き領域",
        "Freed blocks stay with the allocator of C. A trim gives them back.",
        "解放済みの領域を C のアロケータが保持しています。トリムで返せます。",
        _TRIM,
    ),
    Cause.ARENAS: Words(
        "arenas of foreign thread pools",
        "外部スレッドプールのアリーナ",
        "Freed blocks stay in the arenas of threads that a native library runs (such as tokio or "
        "OpenMP). A trim gives them back; MALLOC_ARENA_MAX, set before the process starts, bounds "
        "their number.",
        "ネイティブライブラリのスレッド（tokio や OpenMP など）のアリーナに、解放済みの領域が残って"
        "います。トリムで返せます。アリーナの数は、プロセスの起動前に設定する MALLOC_ARENA_MAX で"
        "抑えられます。",
        _TRIM,
    ),
    Cause.CALLING_THREADS: Words(
        "native state per calling thread",
        "呼び出しスレッドごとのネイティブ領域",
        "Each thread that calls the model leaves native threads and memory behind. Let one thread "
        "that lives long make all calls; SafeEncoder does.",
        "モデルを呼んだスレッドごとに、ネイティブのスレッドとメモリが残ります。長く生きる一つの"
        "スレッドからだけ呼んでください。SafeEncoder はそうします。",
        _SAFE_ENCODER,
    ),
    Cause.SHAPES: Words(
        "one entry per shape",
        "入力の形ごとの保持",
        "Something is kept for each distinct length of input (CPU primitives, MPS before torch "
        "2.14, the arena of an engine, a dict of one's own): texts of lengths that were seen "
        "before add nothing. Few shapes bound it; on MPS use torch 2.14 or newer.",
        "入力の長さごとに何かが保持されています（CPU のプリミティブ、torch 2.14 より前の MPS、推論"
        "エンジンのアリーナ、自作の dict など）。一度通した長さでは増えません。形の種類を減らすと"
        "止まります。MPS では torch 2.14 以上を使ってください。",
        "encoder = safe_embed.SafeEncoder(model, few_shapes=True)",
    ),
    Cause.SPLITTER_CACHE: Words(
        "the splitter's own cache",
        "形態素解析器のキャッシュ",
        "The Tagger of fugashi keeps every surface that it reads. Its method parse does not, nor "
        "does MorphemeSplitter.",
        "fugashi の Tagger は、読んだ表層形をすべて保持します。parse メソッドと MorphemeSplitter は"
        "保持しません。",
        "text = tagger.parse(text)  # or safe_embed.MorphemeSplitter().split(text)",
    ),
    Cause.MAPPINGS: Words(
        "mappings that are never given back",
        "解放されないマッピング",
        "The same files are mapped again and again, and never unmapped; every new Tagger of MeCab "
        "does that with its dictionary. Keep one for the life of the process.",
        "同じファイルが繰り返しマップされ、解放されません。MeCab の Tagger を作るたびに、辞書で"
        "これが起こります。プロセスに一つだけ作り、使い続けてください。",
        "tagger = fugashi.Tagger()  # once, at the top of the module",
    ),
    Cause.PYTHON_OBJECTS: Words(
        "Python objects held",
        "保持されている Python オブジェクト",
        "Python objects are added with the calls and not dropped.",
        "呼び出しとともに Python オブジェクトが増え、解放されていません。",
        "results.clear()  # once they are stored; or collections.deque(maxlen=1000)",
    ),
    Cause.FILE_DESCRIPTORS: Words(
        "file descriptors",
        "ファイル記述子",
        "Files or sockets are opened and not closed. The process fails at its limit (ulimit -n).",
        "ファイルやソケットが閉じられていません。上限（ulimit -n）に達するとプロセスは失敗します。",
        "with open(path) as file:  # closes the file",
    ),
    Cause.FORWARD: Words(
        "native leak in the forward",
        "forward 内のネイティブメモリリーク",
        "Memory grows inside the forward pass of the model, whatever the texts; neither a trim nor "
        "a new tokenizer gives it back. Only a new process does.",
        "文の内容によらず、モデルの forward の中でメモリが増えます。トリムでもトークナイザの"
        "作り直しでも戻りません。プロセスの交換だけが有効です。",
        _PROCESS,
    ),
    Cause.OUTSIDE: Words(
        "growth outside the encoder",
        "エンコーダーの外での増加",
        "Memory grows in the code around the model, not in the model: in native memory that no "
        "remedy here gives back.",
        "モデルではなく、その周りのコードでメモリが増えています。ここにある方法では戻らないネイティブ"
        "メモリです。",
        "safe-embed doctor --target your_module:smaller_function  # leave out a part, compare",
    ),
    Cause.UNCLEAR: Words(
        "unclear",
        "未確定",
        "These measurements do not decide between growth and a cache that still fills.",
        "この測定では、増え続けるのか、キャッシュが埋まる途中なのかを決められません。",
        "safe-embed doctor --budget 900  # prolong the experiments",
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A cause, and the figures that show it.

    Attributes:
        cause: The cause.
        grows: Whether it is an alarm: memory or descriptors that rise with the calls of the normal
            run, without an end in sight.
        size_bytes: How much the process has grown by this cause during the experiment; ``None`` if
            that is not its measure.
        bytes_per_call: Slope; ``None`` if there is none.
        details: The figures and names in words, English. Never a text of the user's.
        details_ja: The same in Japanese.
        experiment: Name of the experiment that shows it.
        remedy: The line to paste; empty if there is nothing to do.
    """

    cause: Cause
    grows: bool = False
    size_bytes: float | None = None
    bytes_per_call: float | None = None
    details: str = ""
    details_ja: str = ""
    experiment: str = ""
    remedy: str = ""

    @classmethod
    def of(cls, cause: Cause, **figures: Any) -> Self:
        """Make a finding with the usual remedy of its cause.

        Args:
            cause: The cause.
            **figures: Further attributes of the finding.

        Returns:
            The finding.
        """
        return cls(cause, **{"remedy": WORDS[cause].remedy, **figures})

    @property
    def words(self) -> Words:
        """The cause in words."""
        return WORDS[self.cause]

    def in_words(self, language: str = "en") -> str:
        """Tell the finding in words.

        Args:
            language: ``"en"`` or ``"ja"``.

        Returns:
            The name, the figures, and what they mean.
        """
        is_japanese = language == "ja"
        name = self.words.name_ja if is_japanese else self.words.name
        meaning = self.words.meaning_ja if is_japanese else self.words.meaning
        details = self.details_ja if is_japanese else self.details
        figures = "、".join if is_japanese else ", ".join
        numbers = figures(
            filter(None, [details, self._size(), self._slope(is_japanese=is_japanese)])
        )
        return f"{name}{f' ({numbers})' if numbers else ''}: {meaning}"

    def _size(self) -> str:
        return "" if self.size_bytes is None else f"+{format_mib(self.size_bytes)}"

    def _slope(self, *, is_japanese: bool) -> str:
        if self.bytes_per_call is None:
            return ""
        kb = f"{self.bytes_per_call / 1e3:,.1f} kB"
        return f"1 回あたり {kb}" if is_japanese else f"{kb} a call"

    def to_dict(self) -> dict[str, Any]:
        """Return the finding for JSON, with its words in both languages.

        Returns:
            Attribute name -> value.
        """
        return {
            "cause": self.cause.value,
            "grows": self.grows,
            "size_bytes": self.size_bytes,
            "bytes_per_call": self.bytes_per_call,
            "experiment": self.experiment,
            "words": self.in_words(),
            "words_ja": self.in_words("ja"),
            "remedy": self.remedy,
        }
