"""Small SentenceTransformers with random weights, built on this machine: nothing is downloaded.

Each is built once for the whole run; its folder lives as long as the process.
"""

from __future__ import annotations

import functools
import json
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

UPSTREAM = int(version("sentence-transformers").partition(".")[0])
HAS_MODERNBERT = tuple(map(int, version("transformers").split(".")[:2])) >= (4, 48)
# All architectures compute attention by one function that can be exchanged.
HAS_ONE_ATTENTION = int(version("transformers").partition(".")[0]) >= 5

# The names and prompts of ruri-v3's model card.
RURI_PROMPTS = {"query": "検索クエリ: ", "document": "検索文書: ", "topic": "トピック: "}
# Tokens that the small models read of a text: few, so that long texts are still short.
LIMIT = 64

_CORPUS = (
    "吾が輩は犬である。名前はもうある。今日は雨が降り、明日も雨でしょう。「どこへ行くのか？」と彼女は聞いた。"
    "東京都の人口は約1,400万人、大阪府は８８０万人です。円周率は3.14で、えっ！？と驚いた……。"
    "検索クエリ: 検索文書: トピック: メモリが増え続けるのはなぜですか。長い文章は句読点で切って、平均を取る。"
    "カタカナのデータベースと、ﾊﾝｶｸの文字。春はあけぼの、夏は夜。秋は夕暮れ、冬はつとめて。"
)
_KANA = "".join(map(chr, [*range(0x3041, 0x3097), *range(0x30A1, 0x30FB)]))

# Kana, kanji, half-width, emoji with joiners, combining marks, line breaks, controls, Latin.
_ALPHABET = [
    *"あいうえおかきくけこがぎぐ今日明雨東京都人口長文検索猫犬葛",
    *"アイウｱｲｳﾞーっゃ々〇",
    *"。。、、！？!?…「」『』（）()｡､．，・",
    *"0123４５ abcXYZ. ",
    *("か\u3099", "は\u309a", "👨\u200d👩\u200d👧", "🇯🇵", "葛\U000e0100", "①"),
    *("\n", "\r\n", "\u3000", "\t", "\x00", "\x7f", "\u200b", "　 "),
    *("https://a.jp/b?c=d!e", "モー娘。", "3.14", "1,000円", "(笑)。", "える。"),
]


def japanese(min_size: int = 0, max_size: int = 60) -> st.SearchStrategy[str]:
    """Japanese text of all that makes trouble; sizes are in pieces of one to twenty characters."""
    pieces = st.lists(st.sampled_from(_ALPHABET), min_size=min_size, max_size=max_size)
    return pieces.map("".join)


def long_text(sentences: int = 12, start: int = 0) -> str:
    """Plain Japanese sentences, each different; about 20 characters and 13 tokens each."""
    topics = ("人口", "歴史", "天気", "料理", "音楽", "言葉", "交通")
    times = ("昨日", "今朝", "来週", "去年", "いつも")
    return "".join(
        f"{times[n % 5]}、第{n}の町の{topics[n % 7]}について話を聞いた。"
        for n in range(start, start + sentences)
    )


@dataclass(frozen=True)
class ByteSplitter:
    """A user's own splitter object: every *size* characters."""

    size: int

    def split(self, text: str) -> list[tuple[int, int]]:
        """Cut every *size* characters."""
        return [(at, min(at + self.size, len(text))) for at in range(0, len(text), self.size)]


def upstream_modules() -> Any:
    """The module that holds Transformer, Pooling … in the installed sentence-transformers."""
    if UPSTREAM >= 6:
        from sentence_transformers.sentence_transformer import modules
    else:
        from sentence_transformers import models as modules
    return modules


def normalize_module() -> Any:
    """Upstream's Normalize, wherever it lives."""
    if UPSTREAM >= 6:
        from sentence_transformers.base.modules import Normalize
    else:
        from sentence_transformers.models import Normalize
    return Normalize()


@functools.cache
def folder(name: str) -> Path:
    """A folder of its own that goes away with the process."""
    path = Path(_scratch().name) / name
    path.mkdir()
    return path


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="safe-embed-models-")


def assemble(
    path: Path,
    *,
    normalize: bool = False,
    limit: int | None = LIMIT,
    pooling: dict[str, Any] | None = None,
    **options: Any,
) -> SentenceTransformer:
    """Load a transformer from a folder and put pooling, and Normalize if asked, behind it."""
    from sentence_transformers import SentenceTransformer

    modules = upstream_modules()
    first = modules.Transformer(str(path))
    if limit is not None:
        first.max_seq_length = limit
    width = first.auto_model.config.hidden_size
    chain = [first, modules.Pooling(width, **(pooling or {}))]
    if normalize:
        chain.append(normalize_module())
    return SentenceTransformer(modules=chain, device="cpu", **options)


@functools.cache
def tiny_folder(tokenizer_from: Path) -> Path:
    """Two layers of a random BERT, 32 wide, with the tokenizer of the offline model."""
    import torch
    from transformers import BertConfig, BertModel

    path = folder("tiny")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_from / name, path / name)
    torch.manual_seed(20)
    # A wider spread than usual, so that texts differ clearly in their vectors.
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=250_037,
        num_hidden_layers=2,
        max_position_embeddings=512,
        pad_token_id=1,
        initializer_range=0.2,
        **shape,
    )
    BertModel(config).save_pretrained(path)
    return path


@functools.cache
def tiny(tokenizer_from: Path, *, normalize: bool = False) -> SentenceTransformer:
    """A random BERT that reads 64 tokens and has prompts; shared by all tests, so leave it be."""
    prompts = {"query": "検索クエリ: ", "passage": "文書: ", "corpus": "資料: ", "plain": ""}
    model = assemble(tiny_folder(tokenizer_from), normalize=normalize, prompts=prompts)
    model.prompts = prompts  # upstream adds an empty prompt "document"
    return model


@functools.cache
def small_folder() -> Path:
    """The same BERT with a small Unigram vocabulary: quick to load, for tests that change a model."""
    import torch
    from transformers import BertConfig, BertModel

    path = folder("small")
    tokenizer = llama_like(LIMIT)
    tokenizer.save_pretrained(path)
    torch.manual_seed(25)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=2,
        pad_token_id=3,
        initializer_range=0.2,
        **shape,
    )
    BertModel(config).save_pretrained(path)
    return path


def small(**options: Any) -> SentenceTransformer:
    """A small model of one's own, which a test may change."""
    return assemble(small_folder(), **options)


@functools.cache
def ruri(layers: int = 10) -> SentenceTransformer:
    """The true shape of ruri-v3-30m, but for its vocabulary, which is small, or fewer layers."""
    path = _modernbert(f"ruri_{layers}", llama_like(8192), layers)
    return assemble(path, limit=None, prompts=dict(RURI_PROMPTS))


# Shapes of models that read 8,192 tokens. Source: their config.json on the hub.
SHAPES: dict[str, tuple[str, dict[str, int]]] = {
    "ruri-v3-30m": (
        "modernbert",
        {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 10},
    ),
    "ruri-v3-310m": (
        "modernbert",
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 25},
    ),
    "bge-m3": (
        "xlm-roberta",
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24},
    ),
}


def shaped(name: str) -> SentenceTransformer:
    """The shape of a model that reads 8,192 tokens, with random weights and a small vocabulary."""
    import torch
    from transformers import AutoConfig, AutoModel

    kind, shape = SHAPES[name]
    path = folder(f"shaped_{name}")
    tokenizer = llama_like(8192)
    tokenizer.save_pretrained(path)
    torch.manual_seed(30)
    kinds = ("bos", "eos", "cls", "sep", "pad")
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        num_attention_heads=shape["hidden_size"] // 64,
        max_position_embeddings=8200 if kind == "xlm-roberta" else 8192,
        attn_implementation="sdpa",
        **{f"{part}_token_id": getattr(tokenizer, f"{part}_token_id") for part in kinds},
        **shape,
    )
    AutoModel.from_config(config).save_pretrained(path)
    return assemble(path, limit=8192)


def _modernbert(name: str, tokenizer: Any, layers: int = 10) -> Path:
    """ModernBERT in ruri-v3-30m's shape around a tokenizer."""
    import torch
    from transformers import ModernBertConfig, ModernBertModel

    path = folder(name)
    tokenizer.save_pretrained(path)
    torch.manual_seed(30)
    kinds = ("bos", "eos", "cls", "sep", "pad")
    config = ModernBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=8192,
        reference_compile=False,
        attn_implementation="sdpa",
        **{f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in kinds},
    )
    ModernBertModel(config).save_pretrained(path)
    return path


@functools.cache
def saved(kind: str, tokenizer_from: Path) -> Path:
    """A whole model as a folder, for other processes: "small", or with the offline tokenizer.

    "tiny" reads 512 tokens and "ruri" 8,192, as models of their kinds do.
    """
    if kind == "small":
        model = small()
    elif kind == "tiny":
        model = assemble(tiny_folder(tokenizer_from), limit=512)
    else:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(tokenizer_from)
        tokenizer.model_max_length = 8192
        model = assemble(_modernbert("ruri_whole", tokenizer), limit=8192)
    path = folder(f"saved_{kind}")
    model.save(str(path))
    return path


def llama_like(limit: int) -> PreTrainedTokenizerFast:
    """A tokenizer as Llama's that says how many tokens a text may have."""
    from transformers import PreTrainedTokenizerFast

    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    names |= {"cls_token": "<cls>", "sep_token": "<sep>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=unigram(),
        model_max_length=limit,
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )


def unigram() -> Tokenizer:
    """A Unigram vocabulary as Llama's: byte fallback, <s> … </s>, no blank put in front."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    special = ["<unk>", "<s>", "</s>", "<pad>", "<cls>", "<sep>", "<mask>"]
    corpus = (_CORPUS + long_text(35)).replace(" ", "▁")
    grams = Counter(
        corpus[at : at + size] for size in (1, 2) for at in range(len(corpus) - size + 1)
    )
    grams.update(_KANA + "▁")
    total = sum(grams.values())
    vocab = [(token, 0.0) for token in special]
    vocab += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    vocab += sorted((gram, math.log(n / total)) for gram, n in grams.items())
    found = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
    found.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    found.decoder = decoders.ByteFallback()
    found.add_special_tokens(special)
    found.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B </s>",
        special_tokens=[("<s>", 1), ("</s>", 2)],
    )
    return found


@functools.cache
def architecture(name: str) -> SentenceTransformer:
    """A small random model of an architecture; ModernBERT's local layers see 17 tokens."""
    import torch
    from transformers import AutoConfig, AutoModel

    path = folder(f"architecture_{name}")
    tokenizer = llama_like(LIMIT)
    tokenizer.save_pretrained(path)
    torch.manual_seed(45)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        name,
        vocab_size=len(tokenizer),
        num_hidden_layers=4,
        max_position_embeddings=LIMIT + 8,
        pad_token_id=3,
        initializer_range=0.2,
        **({"local_attention": 16} if name == "modernbert" else {}),
        **shape,
    )
    AutoModel.from_config(config).save_pretrained(path)
    return assemble(path)


@functools.cache
def bert_japanese() -> SentenceTransformer:
    """A BERT with BertJapaneseTokenizer: MeCab with unidic-lite, then WordPiece; all in Python."""
    import torch
    from transformers import BertConfig, BertJapaneseTokenizer, BertModel

    path = folder("bert_japanese")
    characters = sorted({*_CORPUS, *long_text(10), *_KANA} - {" "})
    words = ["今日", "明日", "東京", "検索", "文書", "##です", "##ます", "について", "ある"]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *words]
    vocab += [f"##{character}" for character in characters]
    listing = path / "vocab.txt"
    listing.write_text("\n".join(vocab) + "\n", encoding="utf-8")
    tokenizer = BertJapaneseTokenizer(
        str(listing),
        word_tokenizer_type="mecab",
        subword_tokenizer_type="wordpiece",
        mecab_kwargs={"mecab_dic": "unidic_lite"},
        model_max_length=LIMIT,
    )
    tokenizer.save_pretrained(path)
    torch.manual_seed(40)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=len(vocab), num_hidden_layers=2, initializer_range=0.2, pad_token_id=0, **shape
    )
    BertModel(config).save_pretrained(path)
    return assemble(path)


def _static_vectors(rows: int, width: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(50).standard_normal((rows, width)).astype(np.float32)


@functools.cache
def static() -> SentenceTransformer:
    """A StaticEmbedding around the Rust tokenizer; it reads texts of any length."""
    from sentence_transformers import SentenceTransformer

    backend = unigram()
    vectors = _static_vectors(backend.get_vocab_size(), 48)
    first = upstream_modules().StaticEmbedding(backend, embedding_weights=vectors)
    return SentenceTransformer(modules=[first], device="cpu", prompts={"query": "検索クエリ: "})


@functools.cache
def model2vec_folder() -> Path:
    """A folder as model2vec saves it: one table of vectors, a tokenizer that truncates, Normalize."""
    from safetensors.numpy import save_file

    path = folder("model2vec")
    backend = unigram()
    save_file(
        {"embeddings": _static_vectors(backend.get_vocab_size(), 48)}, path / "model.safetensors"
    )
    backend.enable_truncation(100)
    backend.save(str(path / "tokenizer.json"))
    (path / "1_Normalize").mkdir()
    kinds = ("StaticEmbedding", "Normalize")
    listing = [
        {"idx": at, "name": str(at), "path": where, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, where) in enumerate(zip(kinds, (".", "1_Normalize"), strict=True))
    ]
    (path / "modules.json").write_text(json.dumps(listing))
    (path / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    return path


def incident_embedding(
    model: SentenceTransformer, text: str, embed: Callable[[str], Any] | None = None
) -> np.ndarray[Any, Any]:
    """What the incident's worker did with one text, written as its team would have written it."""
    embed = embed or model.encode
    if len(text) <= 200:
        return np.asarray(embed(text))
    parts, part = [], ""
    for character in text:
        part += character
        if character in "。、":
            parts.append(part)
            part = ""
    # sentence-transformers 5, which the worker ran on, strips what it is given; 6 does not.
    stripped = [part.strip() for part in [*parts, part]]
    return np.mean([embed(part) for part in stripped if part], axis=0)
