"""Token ids of a pair as the authors of each reranker make them: their own code where a package holds it.

`mxbai-rerank` and `FlagEmbedding` run as published, from their wheels; what they import and these paths never call
(peft, the embedders) is left out. transformers 5 dropped `prepare_for_model`, which mxbai-rerank 0.1.6 calls:
FlagEmbedding's own replacement stands in for it. Qwen3-Reranker, zerank and ctxl publish their code as a snippet in the
model card (zerank-1 in modeling_zeranker.py); it is written out here.
"""

from __future__ import annotations

import contextlib
import io
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import AutoTokenizer

from tests.support.wheels import unpacked

Encode = Callable[[str, str, str | None], list[int]]  # query, document, instruction -> ids
QWEN_SYSTEM = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
QWEN_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
QWEN_TASK = "Given a web search query, retrieve relevant passages that answer the query"

QWEN_VL_TASK = "Given a search query, retrieve relevant candidates that answer the query."
PRISM_SYSTEM = "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
PRISM_TASK = """Judge if the document is relevant to the query. Reply "yes" or "no".
On "yes", also emit:
<contribution>One sentence covering every core point the document contributes to the query, without elaboration.\
</contribution>
<evidence>Self-contained rewrite of the query-relevant content. Rules:
- Faithful: rephrase only; add or infer nothing.
- Self-contained: evidence alone must fully answer the query.
- Concise: drop query-irrelevant background.
- Verbatim (no translation): proper nouns, terms, abbreviations, numbers, dates, code, URLs.
- Output language: multilingual doc → query's language; else doc's language.</evidence>"""


def qwen3_reranker(model: Path, max_length: int) -> Encode:
    """The card's `format_instruction` and `process_inputs`: prefix and suffix tokenised apart, the middle truncated."""
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    prefix = tokenizer.encode(QWEN_SYSTEM, add_special_tokens=False)
    suffix = tokenizer.encode(QWEN_SUFFIX, add_special_tokens=False)

    def encode(query: str, document: str, instruction: str | None) -> list[int]:
        text = f"<Instruct>: {instruction or QWEN_TASK}\n<Query>: {query}\n<Document>: {document}"
        inputs = tokenizer(
            [text], padding=False, truncation="longest_first", return_attention_mask=False,
            max_length=max_length - len(prefix) - len(suffix),
        )  # fmt: skip
        return [*prefix, *inputs["input_ids"][0], *suffix]

    return encode


def zerank_1(model: Path, max_length: int) -> Encode:
    """`format_pointwise_datapoints` of modeling_zeranker.py, and the cut of characters that `predict` makes before."""
    encode = zerank_2(model, max_length)
    return lambda query, document, instruction: encode(query[:2_000].strip(), document[:10_000].strip(), instruction)


def zerank_2(model: Path, max_length: int) -> Encode:
    """Qwen's chat template: the query as system, the document as user, a generation prompt."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    turns = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )

    def encode(query: str, document: str, instruction: str | None) -> list[int]:
        if instruction:
            query = f"<query>{query}</query>\n<instruction>{instruction}</instruction>"
        messages = [{"role": "system", "content": query}, {"role": "user", "content": document}]
        text = tokenizer.apply_chat_template(messages, chat_template=turns, tokenize=False, add_generation_prompt=True)
        return list(tokenizer(text)["input_ids"])

    return encode


def prism(model: Path, max_length: int) -> Encode:
    """The quickstart's `build_prompt`: one string with its own instruction, which a caller may replace."""
    tokenizer = AutoTokenizer.from_pretrained(model)

    def encode(query: str, document: str, instruction: str | None) -> list[int]:
        text = (
            f"<|im_start|>system\n{PRISM_SYSTEM}<|im_end|>\n<|im_start|>user\n<Instruct>: {instruction or PRISM_TASK}\n"
            f"<Query>: {query}\n<Document>: {document}{QWEN_SUFFIX}"
        )
        return list(tokenizer(text)["input_ids"])

    return encode


def qwen3_vl_parts(side: str | list[dict[str, str]]) -> str:
    """What the script makes of a side: all pictures, then all texts, joined by nothing; NULL without either."""
    parts = [{"type": "text", "text": side}] if isinstance(side, str) else side
    pictures = "<|vision_start|><|image_pad|><|vision_end|>" * sum(part["type"] == "image" for part in parts)
    texts = "".join(part["text"] for part in parts if part["type"] == "text")
    return pictures + texts or "NULL"


def qwen3_vl_reranker(model: Path, max_length: int) -> Callable[..., list[int]]:
    """Qwen3VLReranker.format_mm_instruction and truncate_tokens_optimized: messages of parts through Qwen3-VL's template.

    The last five ids are kept, and of the others the special tokens; the rest is cut at its end.
    """
    tokenizer = AutoTokenizer.from_pretrained(model)
    special = set(tokenizer.all_special_ids)

    def encode(query: str | list[dict[str, str]], document: str | list[dict[str, str]], instruction: str | None) -> list[int]:
        text = QWEN_SYSTEM + f"<Instruct>: {instruction or QWEN_VL_TASK}"
        text += f"<Query>:{qwen3_vl_parts(query)}" + f"\n<Document>:{qwen3_vl_parts(document)}"
        ids = list(tokenizer(text + "<|im_end|>\n<|im_start|>assistant\n")["input_ids"])
        return qwen3_vl_cut(ids, special, max_length)

    return encode


def qwen3_vl_cut(ids: list[int], special: set[int], max_length: int) -> list[int]:
    """truncate_tokens_optimized: the last five ids are kept, and of the others the special ones; the rest loses its end."""
    front, end = ids[:-5], ids[-5:]
    room = max_length - 5 - sum(index in special for index in front)
    kept: list[int] = []
    for index in front:
        room -= index not in special
        if index in special or room >= 0:
            kept.append(index)
    return [*kept, *end]


def monoqwen2_vl(model: Path, max_length: int) -> Callable[..., list[int]]:
    """The card's snippet: one user turn of a picture and the question about it, through Qwen2-VL's chat template.

    The card has no documents of text; they stand here where the picture stands.
    """
    tokenizer = AutoTokenizer.from_pretrained(model)

    def encode(query: str, document: str, instruction: str | None) -> list[int]:
        question = (
            "Assert the relevance of the previous image document to the following query, answer True or False. "
            f"The query is: {query}"
        )
        turns = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        return list(tokenizer(f"{turns}{document}{question}<|im_end|>\n<|im_start|>assistant\n")["input_ids"])

    return encode


def ctxl(model: Path, max_length: int) -> Encode:
    """The card's `format_prompts`: one string, the tokenizer's own special tokens, padded left."""
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")

    def encode(query: str, document: str, instruction: str | None) -> list[int]:
        instruction = f" {instruction}" if instruction else ""
        text = (
            "Check whether a given document contains information helpful to answer the query.\n"
            f"<Document> {document}\n<Query> {query}{instruction} ??"
        )
        return list(tokenizer(text, max_length=max_length, truncation=True)["input_ids"])

    return encode


def mxbai(model: Path, max_length: int) -> Encode:
    """mxbai-rerank 0.1.6: `MxbaiRerankV2.prepare_inputs`."""
    reranker = mxbai_reranker(model, max_length)

    def encode(query: str, document: str, instruction: str | None) -> list[int]:
        return _unpadded(reranker.prepare_inputs([query], [document], instruction=instruction))

    return encode


def mxbai_reranker(model: Path, max_length: int = 8192, **settings: Any) -> Any:
    """`MxbaiRerankV2` of a folder, on the CPU in float32."""
    for requirement in ("batched==0.1.5", "mxbai-rerank==0.1.6"):
        _importable(unpacked(requirement))
    from mxbai_rerank import MxbaiRerankV2

    settings = {"device_map": None, "max_length": max_length, **settings}  # a map of devices wants accelerate
    reranker = MxbaiRerankV2(str(model), device="cpu", torch_dtype=torch.float32, **settings)
    if not hasattr(reranker.tokenizer, "prepare_for_model"):
        _flag_embedding()
        from FlagEmbedding.utils.tokenizer_compat import prepare_for_model_compat

        plain = AutoTokenizer.from_pretrained(model, padding_side="left")
        reranker.tokenizer.prepare_for_model = types.MethodType(prepare_for_model_compat, plain)
    return reranker


def bge(model: Path, max_length: int) -> Encode:
    """FlagEmbedding 1.4.2: what `FlagLLMReranker.compute_score` hands to its model."""
    reranker = flag_reranker(model)
    seen: list[dict[str, Any]] = []
    reranker.model.register_forward_pre_hook(lambda module, args, inputs: seen.append(inputs), with_kwargs=True)

    def encode(query: str, document: str, instruction: str | None) -> list[int]:
        assert instruction is None
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
            reranker.compute_score([(query, document)], max_length=max_length)
        return _unpadded(seen[-1])

    return encode


def flag_reranker(model: Path) -> Any:
    """`FlagLLMReranker` of a folder, on the CPU in float32."""
    _flag_embedding()
    peft: Any = types.ModuleType("peft")
    peft.PeftModel = None
    with mock.patch.dict(sys.modules, peft=peft):  # gone again before transformers looks for it
        from FlagEmbedding.inference.reranker.decoder_only.base import BaseLLMReranker

    return BaseLLMReranker(str(model), devices="cpu")


def _flag_embedding() -> None:
    """Makes FlagEmbedding's reranker importable without its embedders and trainers."""
    root = unpacked("FlagEmbedding==1.4.2")
    _importable(root)
    packages = (
        "",
        ".inference",
        ".inference.reranker",
        ".inference.reranker.decoder_only",
        ".inference.reranker.encoder_only",
    )
    for package in packages:  # their __init__ files import all of it
        name = f"FlagEmbedding{package}"
        if name not in sys.modules:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [str(root / name.replace(".", "/"))]


def _importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _unpadded(inputs: Any) -> list[int]:
    return [int(token) for token, kept in zip(inputs["input_ids"][0], inputs["attention_mask"][0], strict=True) if kept]


# The part of a preset's name that its authors' code serves.
AUTHORS: dict[str, Callable[[Path, int], Encode]] = {
    "qwen3-reranker": qwen3_reranker,
    "qwen3-vl-reranker": qwen3_vl_reranker,
    "monoqwen2-vl": monoqwen2_vl,
    "prism": prism,
    "mxbai-rerank": mxbai,
    "bge-reranker-v2-gemma": bge,
    "ctxl-rerank": ctxl,
    "zerank-1": zerank_1,
    "zerank-2": zerank_2,
}


def authors_code(preset: str) -> Callable[[Path, int], Encode]:
    """The code of a preset's authors: (model folder, longest prompt) -> encode."""
    (code,) = {code for name, code in AUTHORS.items() if preset.startswith(name)}
    return code
