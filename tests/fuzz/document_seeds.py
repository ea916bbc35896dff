"""Good documents of every kind that lie beside weights, small, to be damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import orbax.checkpoint as ocp
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig

from tests.foreign.quantised.cases import unpack
from tests.support.tiny import FAMILIES, SIZES

QUANTISED = (
    "fp8/static_llama", "gptqmodel/awq_qwen3", "gptqmodel/gptq_qwen3", "llmcompressor/int8_qwen3",
    "llmcompressor/mixed_fp8_int4_llama", "modelopt/mixed_fp8_nvfp4_llama", "modelopt/nvfp4_qwen3",
    "torchao/int8_weights_qwen3",
)  # fmt: skip
SETTINGS = {
    "tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False},
    "pad_token": None, "add_prefix_space": False, "legacy": True, "model_max_length": 512, "split_special_tokens": False,
    "extra_special_tokens": {"image_token": "<image>"},
    "chat_template": [{"name": "default", "template": "{{ messages }}"}, {"name": "tools", "template": "x"}],
}  # fmt: skip
RECORD = {
    "source": "some/model", "jaxconv": "1", "tokens": [{"text": "no", "id": 5}, {"text": "yes", "id": 6}],
    "method": "from_2_way_softmax", "activation": "sigmoid", "dtype": None, "max_length": 512,
    "calibration": {"scale": 1.0, "bias": 0.0}, "head": {"sha256": "0" * 64}, "base": {"name": "b"}, "adapter": {},
}  # fmt: skip
CARD = "---\nlicense: other\nlicense_name: 'mine: all'\nlicense_link: |\n  two\n  lines\nbase_model:\n- a/b\n---\n# x `y`\n"


def _write(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def configs(folder: Path) -> None:
    """A config.json of every family."""
    for model_type, settings in FAMILIES.items():
        config = AutoConfig.for_model(model_type, **{**SIZES, **settings})
        _write(folder / model_type / "config.json", {**config.to_dict(), "model_type": model_type})


def indices(folder: Path) -> None:
    """The index of two shards."""
    where = {"model.norm.weight": "a.safetensors", "model.embed_tokens.weight": "b.safetensors"}
    _write(folder / "model.safetensors.index.json", {"metadata": {"total_size": 9}, "weight_map": where})


def tokenizer_settings(folder: Path) -> None:
    """As transformers 5 writes them, and as transformers 4 did."""
    decoder = {"0": {"content": "<pad>", "special": True}, "7": {"content": "<x>", "rstrip": True, "normalized": True}}
    _write(folder / "new/tokenizer_config.json", {**SETTINGS, "added_tokens_decoder": decoder})
    _write(folder / "old/tokenizer_config.json", {**SETTINGS, "chat_template": "{{ x }}"})
    extra = {"pad_token": {"content": "<pad>"}, "eos_token": "</s>", "additional_special_tokens": ["<a>", {"content": "<b>"}]}
    _write(folder / "old/special_tokens_map.json", extra)
    for name in ("new", "old"):
        _write(folder / name / "config.json", {"model_type": "llama", "tokenizer_class": None})


def adapter(folder: Path) -> None:
    """The settings of a LoRA."""
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "use_rslora": True, "use_dora": False,
        "bias": "none", "base_model_name_or_path": "a/b", "target_modules": ["q_proj"], "init_lora_weights": True,
        "rank_pattern": {"q_proj": 4}, "alpha_pattern": {".*down_proj": 16}, "modules_to_save": None,
    }  # fmt: skip
    _write(folder / "adapter_config.json", settings)


def sentence_transformers(folder: Path) -> None:
    """A LogitScore beside a tokenizer."""
    _tokenizers_of(folder / "tokenizer.json", models.WordLevel({"no": 5, "yes": 6, "<unk>": 0}, unk_token="<unk>"))
    _write(folder / "modules.json", [{"idx": 1, "path": "1_LogitScore", "type": "sentence_transformers.x.LogitScore"}])
    _write(folder / "1_LogitScore/config.json", {"true_token_id": 6, "false_token_id": 5})
    prompts = {"prompts": {"query": "find"}, "default_prompt_name": "query", "activation_fn": "torch.nn.modules.Sigmoid"}
    _write(folder / "config_sentence_transformers.json", prompts)
    template = {"chat_template": {"chat_template": "default", "add_generation_prompt": True}}
    modalities = {"message": {"method": "forward", "format": "structured"}}
    _write(folder / "sentence_bert_config.json", {"processing_kwargs": template, "modality_config": modalities})


def quantised(folder: Path) -> None:
    """Checkpoints of every method, as its own library wrote them."""
    for name in QUANTISED:
        case = unpack(name, folder / ".unpacked" / name)
        case.folder.rename(folder / name.replace("/", "-"))
    shutil.rmtree(folder / ".unpacked")


def zarr3_folders(folder: Path) -> None:
    """One zarr3 folder an array."""
    tree = {"a": jnp.arange(6, dtype=jnp.float32), "b": jnp.arange(24, dtype=jnp.bfloat16).reshape(6, 4)}
    ocp.PyTreeCheckpointer(use_ocdbt=False, use_zarr3=True).save(folder, tree, force=True)


def pairs(folder: Path) -> None:
    """Lines of pairs."""
    rows = [{"query": "who?", "document": "ünï"}, {"query": "", "document": "d", "id": 3, "instruction": None}]
    (folder / "pairs.jsonl").write_text("\ufeff" + "".join(f"{json.dumps(row)}\n\n" for row in rows))


def output(folder: Path) -> None:
    """The JSON files of a conversion's output."""
    _tokenizers_of(folder / "tokenizer.json", models.WordLevel({"no": 5, "yes": 6, "<unk>": 0}, unk_token="<unk>"))
    _write(folder / "config.json", {"model_type": "llama", "max_position_embeddings": 512, "pad_token_id": 0})
    _write(folder / "tokenizer_config.json", SETTINGS)
    _write(folder / "jaxconv.json", RECORD)
    where = {"score.weight": "model-score.safetensors"}
    _write(
        folder / "model.safetensors.index.json", {"metadata": {"total_size": 8, "total_parameters": 2}, "weight_map": where}
    )


def stage(folder: Path) -> None:
    """What a conversion notes in its staged directory."""
    _write(folder / "owner.json", {"output": "out", "host": "h", "pid": 1, "started": 1.5})
    _write(folder / "names.json", ["config.json", "model.safetensors"])


def card(folder: Path) -> None:
    """A model card with a licence."""
    (folder / "README.md").write_text(CARD)


def _tokenizers_of(path: Path, model: Any, **parts: Any) -> None:
    made = Tokenizer(model)
    for name, part in parts.items():
        setattr(made, name, part)
    made.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save(str(path))


def tokenizers(folder: Path) -> None:
    """A tokenizer of each kind, with every part that one can have."""
    pieces = {piece: index for index, piece in enumerate(["<unk>", "y", "e", "s", "ye", "yes", "n", "o", "no", "▁", "Ġ"])}
    bpe = models.BPE(pieces, [("y", "e"), ("ye", "s"), ("n", "o")], unk_token="<unk>", byte_fallback=True)
    _tokenizers_of(
        folder / "bpe/tokenizer.json",
        bpe,
        normalizer=normalizers.Sequence([normalizers.NFC(), normalizers.Replace(" ", "▁"), normalizers.Prepend("▁")]),
        pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        post_processor=processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)]),
        decoder=decoders.ByteLevel(),
    )
    made = Tokenizer.from_file(str(folder / "bpe/tokenizer.json"))
    made.enable_padding(pad_token="<unk>", length=8)
    made.enable_truncation(4)
    made.save(str(folder / "bpe/tokenizer.json"))
    split = pre_tokenizers.Split(r"[a-z]+", behavior="isolated")
    unigram = models.Unigram([("<unk>", 0.0), ("▁yes", -1.0), ("no", -2.5)], 0, byte_fallback=False)
    _tokenizers_of(folder / "unigram/tokenizer.json", unigram, pre_tokenizer=pre_tokenizers.Metaspace())
    _tokenizers_of(folder / "word/tokenizer.json", models.WordLevel(pieces, unk_token="<unk>"), pre_tokenizer=split)
    piece = models.WordPiece({**pieces, "##s": 11}, unk_token="<unk>")
    _tokenizers_of(folder / "piece/tokenizer.json", piece, normalizer=normalizers.BertNormalizer())
    for name, kind in (("bpe", "Qwen2TokenizerFast"), ("unigram", "LlamaTokenizer"), ("word", "PreTrainedTokenizerFast")):
        _write(folder / name / "tokenizer_config.json", {"tokenizer_class": kind, "eos_token": "</s>"})


def template(folder: Path) -> None:
    """A chat template."""
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message['content'] }}\n{% endfor %}")


DOCUMENTS: Mapping[str, Callable[[Path], None]] = {
    make.__name__: make
    for make in (
        configs, indices, tokenizer_settings, adapter, sentence_transformers, quantised, zarr3_folders, pairs, output, stage,
        card, tokenizers, template,
    )
}  # fmt: skip
