"""The tokenizer classes of transformers that build the tokenizer anew from the vocabulary and merges in tokenizer.json.

What tokenizer.json says about normalisation and about parting a text before it is tokenised does not count with them. vLLM
and sentence-transformers load a folder through these classes, so jaxconv does to a tokenizer what they do. Equals the
`__init__` of each class in transformers 5.23.0, and the choice of a class in models/auto/tokenization_auto.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

# Classes that load tokenizer.json as it is. All others build the tokenizer anew from the vocabulary in it.
RustTokenizer: TypeAlias = Any  # a tokenizers.Tokenizer, which has no types

PLAIN_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast", "PreTrainedTokenizer", "PythonBackend")
# The classes of model types that do not load tokenizer.json as it is, where the folder names no class.
MODEL_CLASSES = {
    "qwen2": "Qwen2Tokenizer", "qwen2_moe": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer", "qwen3_moe": "Qwen2Tokenizer",
    "qwen3_next": "Qwen2Tokenizer", "qwen3_5": "Qwen3_5Tokenizer", "qwen3_5_text": "Qwen3_5Tokenizer",
    "qwen3_5_moe": "Qwen3_5Tokenizer", "qwen3_5_moe_text": "Qwen3_5Tokenizer", "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer", "gemma3": "GemmaTokenizer", "gemma3_text": "GemmaTokenizer", "cohere": "CohereTokenizer",
    "cohere2": "CohereTokenizer", "phi": "GPT2Tokenizer", "starcoder2": "GPT2Tokenizer", "gpt2": "GPT2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
}  # fmt: skip
# Model types whose class transformers takes whatever the folder says.
FORCED = ("qwen2", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text")
# Model types that load tokenizer.json as it is, whatever class the folder names.
ALWAYS_PLAIN = ("mistral", "mixtral", "ministral", "mistral3", "phi3", "phimoe", "granite", "olmo2", "glm4", "stablelm")
# The special tokens that a class has unless the folder says otherwise.
CLASS_DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "LlamaTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "Qwen2Tokenizer": {"unk_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    "Qwen3_5Tokenizer": {"unk_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    "GemmaTokenizer": {
        "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "mask_token": "<mask>",
    },
    "CohereTokenizer": {
        "unk_token": "<UNK>", "bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>", "pad_token": "<PAD>",
        "cls_token": "<CLS>", "sep_token": "<SEP>", "mask_token": "<MASK_TOKEN>",
    },
    "GPT2Tokenizer": {"unk_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    "GPTNeoXTokenizer": {
        "unk_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|padding|>",
    },
}  # fmt: skip
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?"
QWEN2 = WORDS + r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN3_5 = WORDS + r"[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True, slots=True)
class Building:
    """How a class builds its tokenizer.

    Attributes:
        class_name: The class.
        add_prefix_space: Its setting of that name; None for the class's default.
        legacy: Whether a LlamaTokenizer puts a space after every special token, not only before the first word.
    """

    class_name: str
    add_prefix_space: bool | None
    legacy: bool


def rebuild(tokenizer: RustTokenizer, building: Building) -> None:
    """Does to a tokenizer what its class in transformers does; nothing for a class without an entry.

    Args:
        tokenizer: A `tokenizers.Tokenizer`, which is changed in place.
        building: How the class builds it.
    """
    build = BUILDERS.get(building.class_name)
    if build is not None and type(tokenizer.model).__name__ == "BPE":
        build(tokenizer, building)


def is_rebuilt(class_name: str) -> bool:
    """Whether `rebuild` knows the class in transformers called `class_name`."""
    return class_name in BUILDERS


def _bpe(tokenizer: RustTokenizer, *, fuse_unk: bool, byte_fallback: bool) -> None:
    model = tokenizer.model
    model.fuse_unk, model.byte_fallback, model.ignore_merges = fuse_unk, byte_fallback, False
    model.unk_token = None


def _qwen(pattern: str) -> Callable[[RustTokenizer, Building], None]:
    def build(tokenizer: RustTokenizer, building: Building) -> None:
        from tokenizers import Regex, normalizers, pre_tokenizers

        _bpe(tokenizer, fuse_unk=False, byte_fallback=False)
        tokenizer.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
        space = building.add_prefix_space or False
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=False)]
        )

    return build


def _llama(tokenizer: RustTokenizer, building: Building) -> None:
    from tokenizers import pre_tokenizers

    _bpe(tokenizer, fuse_unk=True, byte_fallback=True)
    tokenizer.normalizer = None
    scheme = "never" if building.add_prefix_space is False else "always" if building.legacy else "first"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)


def _gemma(tokenizer: RustTokenizer, building: Building) -> None:
    from tokenizers import normalizers, pre_tokenizers

    unknown = tokenizer.model.unk_token or "<unk>"
    _bpe(tokenizer, fuse_unk=True, byte_fallback=True)
    tokenizer.model.unk_token = unknown
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern=" ", behavior="merged_with_previous", invert=False)


def _cohere(tokenizer: RustTokenizer, building: Building) -> None:
    from tokenizers import normalizers, pre_tokenizers

    _bpe(tokenizer, fuse_unk=False, byte_fallback=False)
    tokenizer.normalizer = normalizers.NFC()
    space = building.add_prefix_space or False
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=space, trim_offsets=True)]
    )


def _gpt2(tokenizer: RustTokenizer, building: Building) -> None:
    from tokenizers import pre_tokenizers

    _bpe(tokenizer, fuse_unk=False, byte_fallback=False)
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=building.add_prefix_space or False)


BUILDERS: Mapping[str, Callable[[RustTokenizer, Building], None]] = {
    "Qwen2Tokenizer": _qwen(QWEN2),
    "Qwen3_5Tokenizer": _qwen(QWEN3_5),
    "LlamaTokenizer": _llama,
    "GemmaTokenizer": _gemma,
    "CohereTokenizer": _cohere,
    "GPT2Tokenizer": _gpt2,
}
