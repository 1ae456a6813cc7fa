"""Which things that look like a model are none, and what they are for.

They are known by the names of their classes, and by the files that they were stored in: nothing is
imported or loaded to tell.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from safe_embed.errors import ConfigError


class _Use(NamedTuple):
    """What to say of a kind."""

    english: str
    japanese: str


_SCORES = _Use(
    "scores pairs of texts and gives no vectors. Use CrossEncoder.predict to re-rank what was "
    "found with the vectors of a SentenceTransformer",
    "文章の組に点数を付けるモデルで、ベクトルは作りません。検索結果の並べ替えに "
    "CrossEncoder.predict を使い、ここには SentenceTransformer かモデル名を渡してください。",
)
_SPARSE = _Use(
    "gives sparse vectors, and those are not pooled here. Use its own encode, or pass a "
    "SentenceTransformer",
    "疎なベクトルを作るモデルなので、ここでは使えません。そのまま encode を呼ぶか、"
    "SentenceTransformer を渡してください。",
)
_MANY = _Use(
    "gives a vector for each token, not one for a text. Use its own encode, or pass a "
    "SentenceTransformer",
    "トークンごとにベクトルを作るモデルなので、ここでは使えません。そのまま encode を呼ぶか、"
    "SentenceTransformer を渡してください。",
)
_TOKENIZER = _Use(
    "is a tokenizer or processor and gives no vectors. Pass the model's name; a tokenizer of your "
    "own goes into the model, in a loader that sets model.tokenizer",
    "トークナイザーやプロセッサーで、ベクトルは作りません。モデル名を渡してください。"
    "トークナイザーを替えるには、model.tokenizer に代入するローダーを渡します。",
)
_PIPELINE = _Use(
    "is a pipeline of transformers. Pass the name of its model, or a SentenceTransformer",
    "transformers のパイプラインです。モデル名か SentenceTransformer を渡してください。",
)
_MODULE = _Use(
    "gives no vectors of whole texts by itself. Pass the model's name, or "
    "SentenceTransformer(modules=[Transformer(name), Pooling(dimension)])",
    "それだけでは文章のベクトルを作りません。モデル名か、"
    "SentenceTransformer(modules=[Transformer(...), Pooling(...)]) を渡してください。",
)
_ENCODER = _Use(
    "embeds texts already. Use it as it is, or pass the model that it was made from",
    "すでに文章を埋め込めます。そのまま使うか、もとのモデルを渡してください。",
)
_NOT_CALLED = _Use(
    "was not called. Pass SentenceTransformer(name), or the name alone",
    "クラスそのものです。SentenceTransformer(モデル名) か、モデル名だけを渡してください。",
)
_CLASSIFIER = _Use(
    "is a classifier, such as a CrossEncoder: it scores texts and gives no vectors. Use "
    "CrossEncoder.predict to re-rank what was found with the vectors of a SentenceTransformer",
    _SCORES.japanese,
)

# Library and class, or a class that it is below -> what to say. The first along the order in which
# Python looks for methods counts; None is what is welcome.
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
# "model_type" in config_sentence_transformers.json -> what to say.
_STORED = {
    "CrossEncoder": _SCORES,
    "SparseEncoder": _SPARSE,
    "MultiVectorEncoder": _MANY,
    "ColBERT": _MANY,  # as PyLate calls it
}


def refuse_other_kinds(found: object, *, loader: bool = False) -> None:
    """Refuse a thing of another library that is no SentenceTransformer, whether it can be called.

    Args:
        found: What was given as the model.
        loader: Whether a loader has given it.

    Raises:
        ConfigError: If it is of a kind that is known; says what it is for.
    """
    is_class = isinstance(found, type)
    kind: type = found if isinstance(found, type) else type(found)
    use = _use_of(kind)
    if is_class and use is None and _is_upstream_s(kind):
        use = _NOT_CALLED
    if use is None:
        return
    name = f"the class {kind.__name__}" if is_class else _with_article(kind.__name__)
    english, japanese = use
    given, given_ja = (
        ("The loader gave", f"ローダーが {kind.__name__} を返しました。")
        if loader
        else ("model is", f"model に {kind.__name__} が渡されました。")
    )
    raise ConfigError(f"{given} {name}, which {english}.\n{given_ja}{japanese}")


def refuse_what_needs_arguments(loader: Callable[..., Any]) -> None:
    """Refuse a loader that cannot be called as loaders are.

    Args:
        loader: Anything that can be called.

    Raises:
        ConfigError: If it needs arguments.
    """
    try:
        signature = inspect.signature(loader, follow_wrapped=False)
    except (TypeError, ValueError):  # of C code: it is tried
        return
    try:
        signature.bind()
    except TypeError:
        name = getattr(loader, "__name__", type(loader).__name__)
        needed = [
            one.name
            for one in signature.parameters.values()
            if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        ]
        msg = (
            f"model is {name!r}, which can be called, but not without arguments as a loader is: it "
            f"needs {', '.join(needed)}. Pass a function without arguments that gives a "
            "SentenceTransformer, such as functools.partial(load, ...), or a SentenceTransformer.\n"
            f"{name!r} は引数なしでは呼べません。引数なしで SentenceTransformer を返す関数"
            "（functools.partial など）か、SentenceTransformer を渡してください。"
        )
        raise ConfigError(msg) from None


def refuse_what_is_no_model(found: object, *, loader: bool = False) -> NoReturn:
    """Refuse a thing that is no SentenceTransformer, of whatever kind.

    Args:
        found: What was given as the model.
        loader: Whether a loader has given it.

    Raises:
        ConfigError: In any case.
    """
    name = type(found).__name__
    if not loader:
        raise ConfigError(
            f"model is {_with_article(name)}, and no SentenceTransformer. Pass one, or its name.\n"
            f"model に {name} が渡されました。SentenceTransformer かモデル名を渡してください。"
        )
    is_name = isinstance(found, str | os.PathLike)
    hint = " Pass the name of a model by itself, not from a loader." if is_name else ""
    raise ConfigError(
        f"The loader gave {_with_article(name)}. It must give a SentenceTransformer.{hint}\n"
        f"ローダーが {name} を返しました。SentenceTransformer を返してください。"
    )


def refuse_other_files(spec: str, options: Mapping[str, Any]) -> None:
    """Refuse a folder, or a name in the hub's cache, whose files say that it is of another kind.

    sentence-transformers would take its Transformer and put a mean over tokens behind, for which it
    was never trained.

    Args:
        spec: The folder or name.
        options: Arguments for ``SentenceTransformer``.

    Raises:
        ConfigError: If that is certain; says what it is for.
    """
    name = "CrossEncoder"
    said = _read(_file(spec, "config_sentence_transformers.json", options)).get("model_type")
    use = _STORED.get(said) if isinstance(said, str) else None
    if use is not None:
        name = str(said)
    elif _file(spec, "modules.json", options) is False:
        config = _read(_file(spec, "config.json", options))
        written, kinds = config.get("sentence_transformers"), config.get("architectures")
        if isinstance(written, dict) and "activation_fn" in written:
            use = _SCORES
        elif isinstance(kinds, list) and str(kinds[:1]).endswith("ForSequenceClassification']"):
            name, use = str(kinds[0]), _CLASSIFIER
    if use is not None:
        english, japanese = use
        raise ConfigError(
            f"{spec!r} holds {_with_article(name)}, which {english}.\n"
            f"{spec!r} は {name} です。{japanese}"
        )


def _use_of(kind: type) -> _Use | None:
    for one in kind.__mro__:
        key = one.__module__.partition(".")[0], one.__name__
        if key in _KINDS:
            return _KINDS[key]
    return None


def _is_upstream_s(kind: type) -> bool:
    """Tell a SentenceTransformer of upstream's own; a user's below it may be a loader, called."""
    library = kind.__module__.partition(".")[0]
    return (library, kind.__name__) == ("sentence_transformers", "SentenceTransformer")


def _with_article(name: str) -> str:
    return f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}"


def _file(spec: str, name: str, options: Mapping[str, Any]) -> Path | Literal[False] | None:
    """Find a file of a model: False where there is none, ``None`` where that is not known."""
    folder = Path(spec)
    if folder.is_dir():
        path = folder / name
        return path if path.is_file() else False
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    repository = spec if "/" in spec else f"sentence-transformers/{spec}"
    cache = options.get("cache_folder") or os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    try:
        found = try_to_load_from_cache(
            repository, name, cache and os.fspath(cache), revision=options.get("revision")
        )
    except (OSError, ValueError):  # no name that the hub could have
        return None
    return Path(found) if isinstance(found, str) else False if found is _CACHED_NO_EXIST else None


def _read(path: Path | Literal[False] | None) -> dict[str, Any]:
    """Read a file of JSON; what cannot be read, or is no object, says nothing."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
