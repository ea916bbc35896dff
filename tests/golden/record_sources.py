"""Records `sources.json`: tiny models of transformers, adapters of PEFT and the bases of the foreign fixtures.

Names, shapes and dtypes of the tensors are recorded, not their values; `sources.py` makes values of its own.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open

from tests.golden import texts
from tests.golden.sources import FILE, FIXTURES, Source
from tests.golden.texts import Texts

ALL_BIASES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen3": {"attention_bias": True},
    "gemma": {"attention_bias": True},
    "cohere": {"attention_bias": True, "use_qk_norm": True},
    "phi": {"qk_layernorm": True},
    "stablelm": {"use_qkv_bias": True, "qk_layernorm": True, "use_parallel_residual": True},
}
SHARDED = (("llama", False), ("qwen3", True), ("gemma2", True), ("cohere", False), ("mixtral", False))
PROJECTIONS = ["q_proj", "v_proj", "down_proj"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 3}},
    "head-and-embedding": {"target_modules": [*PROJECTIONS, "lm_head", "embed_tokens"]},
    "replaced": {"modules_to_save": ["lm_head", "norm"]},
}
# The pieces that presets name by id, and the special tokens of their prompts.
QWEN_IDS = {"0": 15, "1": 16, "no": 2152, "Yes": 9454, "yes": 9693}
QWEN_ADDED = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
QWEN_ROWS = 9728


class Recorder:
    """Collects the sources and their texts."""

    def __init__(self) -> None:
        self.texts = texts.load()
        self.sources: dict[str, Source] = {}

    def add(self, name: str, folder: Path, *leave_out: str) -> None:
        """Records a folder: tensors by name, dtype and shape, everything else as text."""
        source: Source = {"files": {}, "weights": {}}
        for path in sorted(entry for entry in folder.rglob("*") if entry.is_file() and entry.name not in leave_out):
            file = path.relative_to(folder).as_posix()
            if path.suffix == ".safetensors":
                with safe_open(path, "np") as opened:
                    slices = {tensor: opened.get_slice(tensor) for tensor in opened.keys()}
                    tensors = {key: f"{part.get_dtype()} {_sizes(part.get_shape())}" for key, part in slices.items()}
                    source["weights"][file] = {"metadata": opened.metadata(), "tensors": tensors}
            else:
                source["files"][file] = self.texts.add(file, path.read_text("utf-8"))
        self.sources[name] = source

    def base(self, name: str, folder: Path) -> None:
        """Records config and tokenizer alone."""
        self.add(name, folder, "model.safetensors")

    @contextmanager
    def changed(self, name: str, original: str) -> Iterator[dict[str, Any]]:
        """A copy of a source, to be changed in the block, whose files are texts and None removes one."""
        source = json.loads(json.dumps(self.sources[original]))
        files = {file: self.texts.get(file, digest) for file, digest in source["files"].items()}
        copy: dict[str, Any] = {"files": files, "weights": source["weights"]}
        yield copy
        digests = {file: self.texts.add(file, text) for file, text in copy["files"].items() if text is not None}
        self.sources[name] = {"files": digests, "weights": copy["weights"]}

    def save(self) -> Texts:
        """Writes `sources.json`, and returns the texts for the caller to save."""
        FILE.write_text(json.dumps(self.sources, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
        return self.texts


def record() -> Texts:
    """Records all sources."""
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        _families(recorder, Path(folder))
        _adapters(recorder, Path(folder))
        _fixtures(recorder, Path(folder))
    _presets(recorder)
    _configs(recorder)
    _tokenizers(recorder)
    _containers(recorder)
    return recorder.save()


def _sizes(shape: list[int]) -> str:
    return "x".join(map(str, shape))


def _families(recorder: Recorder, folder: Path) -> None:
    from tests.support.tiny import FAMILIES, tiny_checkpoint

    def tiny(name: str, *arguments: Any, **options: Any) -> None:
        recorder.add(name, tiny_checkpoint(folder / name, *arguments, **options))

    for model_type in FAMILIES:
        for tie in (True, False):
            tiny(f"family/{model_type}-{'tied' if tie else 'untied'}", model_type, tie=tie)
    for model_type, options in ALL_BIASES.items():
        tiny(f"biases/{model_type}", model_type, **options)
    for model_type, tie in SHARDED:
        tiny(f"shards/{model_type}", model_type, tie=tie, shards=3)
    tiny("softcap/gemma2", "gemma2", final_logit_softcapping=30.0)


def _adapters(recorder: Recorder, folder: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    for name, settings in ADAPTERS.items():
        options = {"r": 4, "lora_alpha": 8, "target_modules": PROJECTIONS, "task_type": "CAUSAL_LM", **settings}
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "family/llama-untied"), LoraConfig(**options))
        model.save_pretrained(str(folder / "adapter" / name))
        path = folder / "adapter" / name / "adapter_config.json"
        stable = {"base_model_name_or_path": "someone/base", "target_modules": options["target_modules"]}  # was a set
        config = json.loads(path.read_text()) | stable
        path.write_text(json.dumps(config, indent=2))
        recorder.add(f"adapter/{name}", path.parent, "README.md")


def _fixtures(recorder: Recorder, folder: Path) -> None:
    from tests.foreign.cases import about, names, unpack

    for name in names():
        assert (FIXTURES / f"{name}.tar.xz").is_file()
        if not about(name).get("refused"):
            recorder.base(f"foreign/{name}", unpack(name, folder / "foreign" / name).original)
    with recorder.changed("foreign/no-rope-type", "foreign/maxtext/llama31_scanned") as source:
        _edit(source, "config.json", rope_scaling=None)


def _presets(recorder: Recorder) -> None:
    """Models whose tokenizer has the ids that the presets of Qwen's rerankers expect."""
    for model_type in ("qwen2", "qwen3"):
        with recorder.changed(f"preset/{model_type}", f"family/{model_type}-tied") as source:
            tokenizer = json.loads(source["files"]["tokenizer.json"])
            vocabulary = tokenizer["model"]["vocab"]
            by_id = {index: piece for piece, index in vocabulary.items()}
            for piece, index in QWEN_IDS.items():
                if index in by_id:
                    vocabulary[by_id[index]] = vocabulary[piece]
                    by_id[vocabulary[piece]] = by_id[index]
                vocabulary[piece] = index
            special = tokenizer["added_tokens"][0]
            for index, piece in enumerate(QWEN_ADDED, max(QWEN_IDS.values()) + 1):
                vocabulary[piece] = index
                tokenizer["added_tokens"].append({**special, "content": piece, "id": index})
            source["files"]["tokenizer.json"] = json.dumps(tokenizer, indent=2, ensure_ascii=False)
            _edit(source, "config.json", vocab_size=QWEN_ROWS)
            _edit(source, "tokenizer_config.json", pad_token="<|endoftext|>", bos_token=None, eos_token="<|im_end|>")
            tensors = source["weights"]["model.safetensors"]["tensors"]
            tensors["model.embed_tokens.weight"] = f"BF16 {QWEN_ROWS}x64"


def _configs(recorder: Recorder) -> None:
    """Configs with keys to drop, to keep and to do without, and the files of a LogitScore CrossEncoder."""
    keys: dict[str, dict[str, Any]] = {
        "stale": {"classifier_from_token": ["no", "yes"], "method": "from_2_way_softmax", "num_labels": 2,
                  "problem_type": "regression", "is_original_qwen3_reranker": True},
        "remote-code": {"auto_map": {"AutoModel": "modeling.Model"}},
        "other-keys": {"ключ": "naïve ✓", "nested": {"list": [1, 2.5, None, True]}, "id2label": {"0": "x", "1": "y"}},
        "old": {"architectures": None, "dtype": None, "torch_dtype": "bfloat16", "pad_token_id": None},
    }  # fmt: skip
    for name, changes in keys.items():
        with recorder.changed(f"config/{name}", "family/qwen3-tied") as source:
            _edit(source, "config.json", **changes)
    with recorder.changed("config/licence", "family/qwen3-tied") as source:
        source["files"]["README.md"] = "---\nlicense: other\nlicense_name: mine\ntags:\n- x\n---\n# license: no\n"
        source["files"] |= {"LICENSE": "Do as you like.\n", "NOTICE.txt": "By someone.\n"}
    score = {"two": {"true_token_id": 260, "false_token_id": 259}, "one": {"true_token_id": 260}}
    for name, ids in score.items():
        with recorder.changed(f"config/logit-score-{name}", "family/qwen3-tied") as source:
            activation = {"activation_fn": "torch.nn.modules.linear.Identity" if name == "one" else None}
            modules = [{"type": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"}]
            source["files"]["modules.json"] = json.dumps(modules)
            source["files"]["1_LogitScore/config.json"] = json.dumps(ids)
            source["files"]["config_sentence_transformers.json"] = json.dumps(activation)


def _tokenizers(recorder: Recorder) -> None:
    """Tokenizers without a pad token, with a chat template, with special tokens around, with a prefix space."""
    with recorder.changed("tokenizer/no-pad", "family/llama-tied") as source:
        _edit(source, "tokenizer_config.json", pad_token=None)
    with recorder.changed("tokenizer/no-settings", "family/qwen3-tied") as source:
        del source["files"]["tokenizer_config.json"]
    with recorder.changed("tokenizer/pad-as-object", "family/qwen3-tied") as source:
        _edit(source, "tokenizer_config.json", pad_token={"content": "</s>", "special": True})
    with recorder.changed("tokenizer/chat-template", "family/qwen3-tied") as source:
        _edit(source, "tokenizer_config.json", chat_template="chat: {{ messages[0].content }}")
    with recorder.changed("tokenizer/more-files", "family/llama-untied") as source:
        source["files"] |= {"chat_template.jinja": "{{ messages[0].content }}\n", "special_tokens_map.json": "{}\n"}
        source["files"] |= {"vocab.json": '{"yes": 260}', "merges.txt": "y e\n", "added_tokens.json": "{}"}
    with recorder.changed("tokenizer/prefix-space", "family/mistral-untied") as source:
        tokenizer = json.loads(source["files"]["tokenizer.json"])
        model = tokenizer["model"]
        spaced = {piece.replace("Ġ", "▁"): index for piece, index in model["vocab"].items()}
        merges = [[part.replace("Ġ", "▁") for part in pair] for pair in model["merges"]]
        tokenizer["model"] = {**model, "vocab": spaced, "merges": merges, "unk_token": "<unk>", "fuse_unk": True}
        tokenizer["pre_tokenizer"] = {
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False,
        }  # fmt: skip
        tokenizer["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
        source["files"]["tokenizer.json"] = json.dumps(tokenizer, indent=2, ensure_ascii=False)


def _containers(recorder: Recorder) -> None:
    """Other files, dtypes and tensors that add nothing."""
    single, head, embedding = "model.safetensors", "lm_head.weight", "model.embed_tokens.weight"
    for name, original in (("bin", "family/llama-untied"), ("bin-tied", "family/qwen3-tied")):
        with recorder.changed(f"container/{name}", original) as source:
            source["weights"] = {"pytorch_model.bin": source["weights"][single]}
    for name, metadata in (("no-metadata", None), ("mlx", {"format": "mlx"})):
        with recorder.changed(f"container/{name}", "shards/llama") as source:
            for weights in source["weights"].values():
                weights["metadata"] = metadata
    for name, dtype in (("float32", "F32"), ("float16", "F16")):
        with recorder.changed(f"container/{name}", "family/qwen3-tied") as source:
            tensors = source["weights"][single]["tensors"]
            source["weights"][single]["tensors"] = {key: entry.replace("BF16", dtype) for key, entry in tensors.items()}
            _edit(source, "config.json", dtype={"F32": "float32", "F16": "float16"}[dtype])
    with recorder.changed("container/mixed", "family/llama-untied") as source:
        tensors = source["weights"][single]["tensors"]
        tensors.update({key: entry.replace("BF16", "F32") for key, entry in tensors.items() if "norm" in key})
    with recorder.changed("container/buffers", "family/llama-untied") as source:
        buffers = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": "F32 8" for layer in range(2)}
        source["weights"][single]["tensors"].update(buffers)
    with recorder.changed("container/draft-head", "family/qwen3_5_text-tied") as source:
        source["weights"][single]["tensors"].update({"mtp.norm.weight": "BF16 64", "mtp.fc.weight": "BF16 64x128"})
    with recorder.changed("container/tied-and-stored", "family/qwen3-tied") as source:
        tensors = source["weights"][single]["tensors"]
        tensors[head] = f"{tensors[embedding]} {embedding}"


def _edit(source: dict[str, Any], file: str, **changes: Any) -> None:
    """Sets keys of a JSON file; None removes one."""
    document = json.loads(source["files"][file]) | changes
    document = {key: value for key, value in document.items() if value is not None}
    source["files"][file] = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
