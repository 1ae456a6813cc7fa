"""Reject objects and folders that are not embedding models, and say what they are for.

They are recognized by the names of their classes or by their files, without importing or loading
anything.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from safe_embed.errors import ConfigError, both


class _Use(NamedTuple):
    """The second half of the error message for a kind of object, in both languages."""

    english: str
    japanese: str


_SCORES = _Use(
    "scores pairs of texts and does not compute vectors. Use CrossEncoder.predict to re-rank "
    "search results, and pass a SentenceTransformer or the name of a model here",
    "文章の組に点数を付けるモデルで、ベクトルは作りません。検索結果の並べ替えに "
    "CrossEncoder.predict を使い、ここには SentenceTransformer かモデル名を渡してください。",
)
_SPARSE = _Use(
    "computes sparse vectors, which safe_embed does not support. Use its own encode method, or "
    "pass a SentenceTransformer",
    "疎なベクトルを作るモデルなので、ここでは使えません。そのまま encode を呼ぶか、"
    "SentenceTransformer を渡してください。",
)
_MANY = _Use(
    "computes a vector for each token, which safe_embed does not support. Use its own encode "
    "method, or pass a SentenceTransformer",
    "トークンごとにベクトルを作るモデルなので、ここでは使えません。そのまま encode を呼ぶか、"
    "SentenceTransformer を渡してください。",
)
_TOKENIZER = _Use(
    "is a tokenizer or processor and does not compute vectors. Pass the name of the model; to "
    "replace its tokenizer, pass a loader that sets model.tokenizer",
    "トークナイザーやプロセッサーで、ベクトルは作りません。モデル名を渡してください。"
    "トークナイザーを替えるには、model.tokenizer に代入するローダーを渡します。",
)
_PIPELINE = _Use(
    "is a pipeline of transformers. Pass the name of its model, or a SentenceTransformer",
    "transformers のパイプラインです。モデル名か SentenceTransformer を渡してください。",
)
_MODULE = _Use(
    "does not compute vectors of whole texts by itself. Pass the name of the model, or "
    "SentenceTransformer(modules=[Transformer(name), Pooling(dimension)])",
    "それだけでは文章のベクトルを作りません。モデル名か、"
    "SentenceTransformer(modules=[Transformer(...), Pooling(...)]) を渡してください。",
)
_ENCODER = _Use(
    "is an encoder already. Use it directly, or pass the model that it was made from",
    "すでに文章を埋め込めます。そのまま使うか、もとのモデルを渡してください。",
)
_NOT_CALLED = _Use(
    "is not an instance. Pass SentenceTransformer(name), or only the name",
    "クラスそのものです。SentenceTransformer(モデル名) か、モデル名だけを渡してください。",
)
_CLASSIFIER = _Use(
    "is a classifier, such as a CrossEncoder: it scores texts and does not compute vectors. Use "
    "CrossEncoder.predict to re-rank search results, and pass a SentenceTransformer here",
    _SCORES.japanese,
)

# (Library, class) -> the message for this class and its subclasses; None means accepted. The first
# match in the method resolution order counts.
_KINDS: dict[tuple[str, str], _Use | None] = {
    ("sentence_transformers", "CrossEncoder"): _SCORES,
    ("sentence_transformers", "SparseEncoder"): _SPARSE,
    ("sentence_transformers", "MultiVectorEncoder"): _MANY,
    ("sentence_transformers", "SentenceTransformer"): None,
    ("pylate", "ColBERT"): _MANY,
    ("safe_embed", "SafeEncoder"): _ENCODER,
    ("transformers", "PreTrainedTokenizerBase"): _TOKENIZER,
    ("transformers", "ProcessorMixin"): _TOKENIZER,
    ("transformers", "AutoTokenizer"): _TOKENIZER,
    ("transformers", "AutoProcessor"): _TOKENIZER,
    ("tokenizers", "Tokenizer"): _TOKENIZER,
    ("transformers", "Pipeline"): _PIPELINE,
    ("transformers", "PreTrainedModel"): _MODULE,
    ("transformers", "_BaseAutoModelClass"): _MODULE,
    ("optimum", "OptimizedModel"): _MODULE,
    ("torch", "Module"): _MODULE,
}
# "model_type" in config_sentence_transformers.json -> the message.
_STORED = {
    "CrossEncoder": _SCORES,
    "SparseEncoder": _SPARSE,
    "MultiVectorEncoder": _MANY,
    "ColBERT": _MANY,  # written by PyLate
}


def refuse_other_kinds(model: object, *, loader: bool = False) -> None:
    """Reject a known class or object of ML libraries that is not a SentenceTransformer.

    Args:
        model: The argument ``model`` of the user, or the result of a loader.
        loader: Whether *model* is the result of a loader.

    Raises:
        ConfigError: If *model* is such a class or object, or the class SentenceTransformer itself.
            Unknown types pass.
    """
    is_class = isinstance(model, type)
    kind: type = model if isinstance(model, type) else type(model)
    use = _use_of(kind)
    if is_class and use is None and _is_sentence_transformer(kind):
        use = _NOT_CALLED
    if use is None:
        return
    name = f"the class {kind.__name__}" if is_class else _with_article(kind.__name__)
    english, japanese = use
    given, given_ja = (
        ("The loader returned", f"ローダーが {kind.__name__} を返しました。")
        if loader
        else ("model is", f"model に {kind.__name__} が渡されました。")
    )
    raise ConfigError(both(f"{given} {name}, which {english}.", f"{given_ja}{japanese}"))


def refuse_what_needs_arguments(loader: Callable[..., Any]) -> None:
    """Reject a loader that cannot be called without arguments.

    Args:
        loader: Any callable.

    Raises:
        ConfigError: If its signature has required arguments; a callable without an inspectable
            signature passes.
    """
    try:
        signature = inspect.signature(loader, follow_wrapped=False)
    except (TypeError, ValueError):  # C code has no signature: the call will show
        return
    try:
        signature.bind()
    except TypeError:
        name = getattr(loader, "__name__", type(loader).__name__)
        required = [
            param.name
            for param in signature.parameters.values()
            if param.default is param.empty
            and param.kind not in (param.VAR_POSITIONAL, param.VAR_KEYWORD)
        ]
        msg = both(
            f"model is {name!r}, a callable that requires {', '.join(required)}. A loader "
            "must work without arguments. Pass a function without arguments that returns a "
            "SentenceTransformer, such as functools.partial(load, ...), or a SentenceTransformer.",
            f"{name!r} には引数 {', '.join(required)} が必要です。引数なしで SentenceTransformer を"
            "返す関数（functools.partial など）か、SentenceTransformer を渡してください。",
        )
        raise ConfigError(msg) from None


def refuse_what_is_no_model(model: object, *, loader: bool = False) -> NoReturn:
    """Raise the error for an object that is not a SentenceTransformer.

    Args:
        model: The argument ``model`` of the user, or the result of a loader.
        loader: Whether *model* is the result of a loader.

    Raises:
        ConfigError: Always.
    """
    name = type(model).__name__
    if not loader:
        raise ConfigError(
            both(
                f"model is {_with_article(name)}. Pass a SentenceTransformer or a model's name.",
                f"model に {name} が渡されました。SentenceTransformer かモデル名を渡してください。",
            )
        )
    is_name = isinstance(model, str | os.PathLike)
    hint = " To load a model by its name, pass the name instead of a loader." if is_name else ""
    raise ConfigError(
        both(
            f"The loader returned {_with_article(name)}. It must return a SentenceTransformer."
            f"{hint}",
            f"ローダーが {name} を返しました。SentenceTransformer を返してください。",
        )
    )


def refuse_other_files(spec: str, options: Mapping[str, Any]) -> None:
    """Reject a stored model whose files show that it is not an embedding model.

    sentence-transformers would load its Transformer and append mean pooling, for which the model
    was never trained.

    Args:
        spec: A folder, or the name of a model in the Hugging Face cache.
        options: Arguments for ``SentenceTransformer``.

    Raises:
        ConfigError: If the files say so; models that are not in the cache pass.
    """
    name = "CrossEncoder"
    config = _read_json(_find(spec, "config_sentence_transformers.json", options))
    model_type = config.get("model_type")
    use = _STORED.get(model_type) if isinstance(model_type, str) else None
    if use is not None:
        name = str(model_type)
    elif _find(spec, "modules.json", options) is False:
        config = _read_json(_find(spec, "config.json", options))
        settings, classes = config.get("sentence_transformers"), config.get("architectures")
        if isinstance(settings, dict) and "activation_fn" in settings:
            use = _SCORES
        elif isinstance(classes, list) and str(classes[:1]).endswith("ForSequenceClassification']"):
            name, use = str(classes[0]), _CLASSIFIER
    if use is not None:
        english, japanese = use
        raise ConfigError(
            both(
                f"{spec!r} holds {_with_article(name)}, which {english}.",
                f"{spec!r} は {name} です。{japanese}",
            )
        )


def _use_of(kind: type) -> _Use | None:
    """Return the message for a class; ``None`` if it is accepted or unknown."""
    for base in kind.__mro__:
        key = base.__module__.partition(".")[0], base.__name__
        if key in _KINDS:
            return _KINDS[key]
    return None


def _is_sentence_transformer(kind: type) -> bool:
    """Whether *kind* is the class itself; a user's subclass may be a loader without arguments."""
    library = kind.__module__.partition(".")[0]
    return (library, kind.__name__) == ("sentence_transformers", "SentenceTransformer")


def _with_article(name: str) -> str:
    """Put "a" or "an" in front of a name: ``a Pooling``."""
    return f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}"


def _find(spec: str, name: str, options: Mapping[str, Any]) -> Path | Literal[False] | None:
    """Find a file of a model: ``False`` if it does not exist, ``None`` if that is not known."""
    folder = Path(spec)
    if folder.is_dir():
        path = folder / name
        return path if path.is_file() else False
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    repository = spec if "/" in spec else f"sentence-transformers/{spec}"
    cache = options.get("cache_folder") or os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    try:
        cached = try_to_load_from_cache(
            repository, name, cache and os.fspath(cache), revision=options.get("revision")
        )
    except (OSError, ValueError):  # not a valid name of a repository
        return None
    if isinstance(cached, str):
        return Path(cached)
    return False if cached is _CACHED_NO_EXIST else None


def _read_json(path: Path | Literal[False] | None) -> dict[str, Any]:
    """Read a JSON object from a file; empty if it cannot be read or is not an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


# What to type where sentence-transformers 6 makes a chat message of every text.
_CHAT_TEMPLATE = both(
    "The tokenizer has a chat template, and no modules.json of the model says that it reads plain "
    "text: sentence-transformers would make a chat message of every text. If it is a model for "
    "embeddings, pass a function that puts its modules together:\n"
    "def load():\n"
    "    text = {'method': 'forward', 'method_output_name': 'last_hidden_state'}\n"
    "    first = Transformer(folder, modality_config={'text': text}, "
    "module_output_name='token_embeddings')\n"
    "    return SentenceTransformer(modules=[first, Pooling(first.get_embedding_dimension())])\n"
    "encoder = SafeEncoder(load)",
    "modules.json がなく、トークナイザーにチャットテンプレートがあるので、文章がチャットの"
    "発言として読まれます。埋め込み用のモデルなら、上のようにモジュールを組み立てる関数を渡して"
    "ください。",
)


def check_module(module: Any) -> None:
    """Reject a model whose tokens cannot be counted.

    Args:
        module: The first module of the model.

    Raises:
        ConfigError: If it is neither a text Transformer nor a StaticEmbedding, or its tokenizer has
            no padding token.
    """
    tokenizer = getattr(module, "tokenizer", None)
    countable = hasattr(tokenizer, "model_input_names") or hasattr(tokenizer, "encode_batch_fast")
    # A Router has several tokenizers, one for each route, but only one as its attribute.
    countable = countable and not hasattr(module, "sub_modules")
    if countable and "message" in getattr(module, "modality_config", ()):
        raise ConfigError(_CHAT_TEMPLATE)
    if not countable:
        msg = both(
            f"The first module of the model is {type(module).__name__}, whose tokens safe_embed "
            "cannot count. Use a model that begins with a text Transformer or a StaticEmbedding.",
            f"モデルの先頭のモジュール {type(module).__name__} では、トークンを数えられません。"
            "Transformer か StaticEmbedding で始まるモデルを使ってください。",
        )
        raise ConfigError(msg)
    if hasattr(tokenizer, "model_input_names"):
        _check_padding(tokenizer)


def _check_padding(tokenizer: Any) -> None:
    """Raise ConfigError if a tokenizer has no padding token; upstream cannot use it either."""
    padding = getattr(tokenizer, "pad_token_id", None)
    if padding is not None and padding >= 0:
        return
    kinds = ("eos_token", "unk_token", "sep_token", "cls_token")
    other = next((name for name in kinds if getattr(tokenizer, name, None)), None)
    value = f"tokenizer.{other}" if other else "'a token of its vocabulary'"
    msg = both(
        f"The tokenizer, {type(tokenizer).__name__}, has no padding token, which is needed for "
        "batches of texts of different lengths. Set it in a function that loads the model:\n"
        "def load():\n"
        "    model = SentenceTransformer(...)\n"
        f"    model.tokenizer.pad_token = model.{value}\n"
        "    return model\n"
        "encoder = SafeEncoder(load)",
        f"トークナイザー {type(tokenizer).__name__} にパディングトークンがないので、長さの違う"
        "文章をまとめて処理できません。上のように、モデルを読み込む関数の中で pad_token を設定して"
        "ください。",
    )
    raise ConfigError(msg)
