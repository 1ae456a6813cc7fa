"""What a SentenceTransformer has and a SafeEncoder does not: each name, and the way to its purpose.

The table serves the error messages, ``hasattr`` and a test of docs/reference/differences.md.
"""

from __future__ import annotations

from typing import NamedTuple

from safe_embed.errors import UnsupportedError, both


class Way(NamedTuple):
    """How to get what a missing name is for: the second half of a sentence, in both languages."""

    english: str
    japanese: str


SAVE = Way(
    "to store or publish a model, call this method of SentenceTransformer(name)",
    "モデルの保存や公開には、SentenceTransformer(モデル名) の同じメソッドを使ってください。",
)
TRAIN = Way(
    "train a SentenceTransformer, and pass it or its folder to SafeEncoder",
    "学習は SentenceTransformer で行い、そのモデルかフォルダーを SafeEncoder に渡してください。",
)
# A fresh model would lack every change of this kind: nobody could tell why vectors differ.
CHANGE = Way(
    "its model is reloaded to give memory back, so change the model inside a function that "
    "returns it, and pass that function: SafeEncoder(load)",
    "モデルは作り直されます。変更を済ませた SentenceTransformer を返す関数を SafeEncoder に"
    "渡してください。",
)
INSIDE = Way(
    "its model is reloaded to give memory back and is not handed out, so look into "
    "SentenceTransformer(name), or keep the SentenceTransformer that you pass to SafeEncoder",
    "モデルは作り直されるので、中身は渡せません。SentenceTransformer(モデル名) の中を"
    "見るか、SafeEncoder に渡した SentenceTransformer を使ってください。",
)
LOAD = Way("call SafeEncoder(path)", "SafeEncoder(フォルダー) を使ってください。")
MERGE = Way(
    "pass the model that SentenceTransformer.merge returns to SafeEncoder",
    "SentenceTransformer.merge の返すモデルを SafeEncoder に渡してください。",
)
MOVE = Way(
    "call to(…) with the name of the device or with the type of the weights",
    "to(デバイス名) か to(型) を使ってください。",
)
TOKENIZER = Way(
    "use tokenizer, which is a copy, or preprocess(texts)",
    "tokenizer（写し）か preprocess(文章のリスト) を使ってください。",
)
TEXTS = Way(
    "encode takes a str or anything that gives str", "encode は str か str の並びを受け取ります。"
)
CALL = Way("call encode(texts)", "encode(文章のリスト) を使ってください。")
CLASS = Way(
    "read this attribute of the class SentenceTransformer",
    "SentenceTransformer クラスの同じ属性を見てください。",
)

_GROUPS: dict[Way, str] = {
    SAVE: "save save_pretrained save_to_hub push_to_hub",
    TRAIN: (
        "fit old_fit smart_batching_collate gradient_checkpointing_enable zero_grad requires_grad_"
    ),
    CHANGE: (
        "active_adapter active_adapters add_adapter delete_adapter disable_adapters "
        "enable_adapters get_adapter_state_dict load_adapter set_adapter "
        "check_peft_compatible_model has_peft_compatible_model clear_placement_cache "
        "set_pooling_include_prompt add_module append extend insert pop apply compile "
        "load_state_dict register_backward_hook register_buffer register_forward_hook "
        "register_forward_pre_hook register_full_backward_hook register_full_backward_pre_hook "
        "register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module "
        "register_parameter register_state_dict_post_hook register_state_dict_pre_hook "
        "set_extra_state set_submodule share_memory to_empty"
    ),
    INSIDE: (
        "config transformers_model buffers children extra_repr get_buffer get_extra_state "
        "get_parameter get_submodule modules named_buffers named_children named_modules "
        "named_parameters parameters state_dict"
    ),
    LOAD: "load",
    MERGE: "merge",
    MOVE: "ipu mtia xpu type",
    TOKENIZER: "processor",
    TEXTS: "is_singular_input",
    CALL: "forward get_sentence_features",
    CLASS: (
        "default_huggingface_organization model_card_data_class model_type T_destination "
        "call_super_init dump_patches"
    ),
}
# Name -> way.
ABSENT: dict[str, Way] = {name: way for way, names in _GROUPS.items() for name in names.split()}


def unsupported(what: str, way: Way) -> UnsupportedError:
    """Make the error for what only a SentenceTransformer can do.

    Args:
        what: As the message names it, such as ``".save"``.
        way: To the same purpose.

    Returns:
        The error.
    """
    return UnsupportedError(
        both(
            f"SafeEncoder does not support {what}: {way.english}.",
            f"SafeEncoder では {what} を使えません。{way.japanese}",
        )
    )
