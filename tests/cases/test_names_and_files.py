"""Weights under other names, in other files, with an adapter beside them: the scores are those of the causal LM."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import jaxconv
from jaxconv.errors import SourceError
from tests.support.text_cases import PROMPT, check_scores, converted, plain_prompt_ids, template_file, text_source
from tests.test_adapter import trained

BODY = PROMPT.removesuffix("\n")
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
Tensors = dict[str, torch.Tensor]
Change = Callable[[Path], object]


def rewrite(directory: Path, change: Callable[[Tensors], Tensors]) -> None:
    """Changes the tensors of model.safetensors."""
    tensors = {name: tensor.clone() for name, tensor in change(load_file(directory / SINGLE)).items()}
    save_file(tensors, directory / SINGLE, {"format": "pt"})


def in_shards(directory: Path, pattern: str = "model-{0:05d}-of-00002.safetensors", metadata: bool = True) -> dict[str, str]:
    """Splits model.safetensors in two and writes an index; returns the index's weight_map."""
    tensors = load_file(directory / SINGLE)
    (directory / SINGLE).unlink()
    names, weight_map = sorted(tensors), {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = pattern.format(number)
        save_file({name: tensors[name] for name in part}, directory / file, {"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    write_index(directory, weight_map, metadata)
    return weight_map


def write_index(directory: Path, weight_map: dict[str, str], metadata: bool = True) -> None:
    """Writes an index, with `metadata` or without."""
    document = {"metadata": {"total_size": 1}, "weight_map": weight_map} if metadata else {"weight_map": weight_map}
    (directory / INDEX).write_text(json.dumps(document))


def rename(change: Callable[[str], str]) -> Change:
    """Gives every tensor another name."""
    return lambda directory: rewrite(directory, lambda tensors: {change(name): tensors[name] for name in tensors})


def _index_of_the_single_file(directory: Path) -> None:
    write_index(directory, dict.fromkeys(load_file(directory / SINGLE), SINGLE))


def _index_with_the_tied_head(directory: Path) -> None:
    weight_map = in_shards(directory)
    write_index(directory, weight_map | {HEAD: weight_map[EMBEDDING]})


def _index_without_a_buffer(directory: Path) -> None:
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    rewrite(directory, lambda tensors: tensors | buffer)
    weight_map = in_shards(directory)
    write_index(directory, {name: file for name, file in weight_map.items() if name not in buffer})


def _bare_in_shards(directory: Path) -> None:
    rename(lambda name: name.removeprefix("model."))(directory)
    in_shards(directory)


def _composite_in_shards(directory: Path) -> None:
    rename(_composite)(directory)
    in_shards(directory)


def _composite(name: str) -> str:
    return name.replace("model.", "model.language_model.", 1)


# what is done to a directory -> whether the head is tied
LAYOUTS: dict[str, tuple[Change, bool]] = {
    "an index that names only the single file": (_index_of_the_single_file, True),
    "the same, untied": (_index_of_the_single_file, False),
    "an index that lists the tied head": (_index_with_the_tied_head, True),
    "an index that leaves out a buffer": (_index_without_a_buffer, True),
    "an index without metadata": (lambda directory: in_shards(directory, metadata=False), False),
    "shards of another pattern": (lambda path: in_shards(path, "model.safetensors-{0:05d}-of-00002.safetensors"), True),
    "shards of free names": (lambda directory: in_shards(directory, "weights_{0}.safetensors"), False),
    "bare names": (rename(lambda name: name.removeprefix("model.")), True),
    "bare names and a head": (rename(lambda name: name.removeprefix("model.")), False),
    "bare names in shards": (_bare_in_shards, False),
    "bare names and the tied head": (
        lambda directory: rewrite(
            directory,
            lambda tensors: {n.removeprefix("model."): tensors[n] for n in tensors} | {HEAD: tensors[EMBEDDING]},
        ), True,
    ),
    "a composite's names": (rename(_composite), True),
    "a composite's names and a head": (rename(_composite), False),
    "a composite's names in shards": (_composite_in_shards, False),
    "a composite's older names": (rename(lambda name: f"language_model.{name}"), True),
    "a composite's older names and a head": (rename(lambda name: f"language_model.{name}"), False),
}  # fmt: skip


FAMILIES = [("qwen3", name) for name in LAYOUTS] + [("llama", name) for name in list(LAYOUTS)[::3]]


@pytest.mark.parametrize(
    ("kind", "name"), [pytest.param(*case, marks=pytest.mark.slow if case[0] == "llama" else ()) for case in FAMILIES]
)
def test_other_names_and_files(kind: str, name: str, tmp_path: Path) -> None:
    """The model is the one that transformers reads from the plain layout, in every consumer."""
    change, tie = LAYOUTS[name]
    plain = text_source(tmp_path / "plain", kind=kind, tie_word_embeddings=tie)
    source = shutil.copytree(plain, tmp_path / "source")
    change(source)
    case = converted(source, tmp_path / "out", template_file(tmp_path, PROMPT))
    check_scores(case, plain_prompt_ids(plain, BODY), causal_lm=plain)


def _adapter_beside(directory: Path, adapter: Path, *names: str) -> None:
    for name in names:
        shutil.copy(adapter / name, directory)


def _pickled_beside(directory: Path, adapter: Path) -> None:
    _adapter_beside(directory, adapter, "adapter_config.json")
    torch.save(load_file(adapter / "adapter_model.safetensors"), directory / "adapter_model.bin")


def _beside_shards(directory: Path, adapter: Path) -> None:
    _adapter_beside(directory, adapter, "adapter_config.json", "adapter_model.safetensors")
    in_shards(directory)


def _beside_a_pickle(directory: Path, adapter: Path) -> None:
    _adapter_beside(directory, adapter, "adapter_config.json", "adapter_model.safetensors")
    torch.save(load_file(directory / SINGLE), directory / "pytorch_model.bin")
    (directory / SINGLE).unlink()


def _of_another_base(directory: Path, adapter: Path) -> None:
    _adapter_beside(directory, adapter, "adapter_config.json", "adapter_model.safetensors")
    config = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "someone/else"}))


BOTH = ("adapter_config.json", "adapter_model.safetensors")
BESIDE: dict[str, Callable[[Path, Path], None]] = {
    "its two files": lambda directory, adapter: _adapter_beside(directory, adapter, *BOTH),
    "a pickled adapter": _pickled_beside,
    "beside shards": _beside_shards,
    "beside a pickled model": _beside_a_pickle,
    "one of another base": _of_another_base,
    "its settings alone": lambda directory, adapter: _adapter_beside(directory, adapter, BOTH[0]),
    "its weights alone": lambda directory, adapter: _adapter_beside(directory, adapter, BOTH[1]),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if "alone" in name else ()) for name in BESIDE])
def test_an_adapter_beside_the_weights_is_said_and_not_applied(name: str, tmp_path: Path) -> None:
    """The scores are those of the weights without it, and `verify` says the same with both backends."""
    plain = text_source(tmp_path / "plain")
    adapter = trained(plain, tmp_path / "adapter")
    source = shutil.copytree(plain, tmp_path / "source")
    BESIDE[name](source, adapter)
    case = converted(source, tmp_path / "out", template_file(tmp_path, PROMPT))
    assert "adapter" in " ".join(case.result.plan.warnings)
    check_scores(case, plain_prompt_ids(plain, BODY), causal_lm=plain)
    for backend in ("jax", "torch"):
        assert jaxconv.verify(source, case.output, backend=backend).passed


UNEXPECTED = {
    "v_head.summary.weight": "value head of TRL",
    "score.weight": "a classifier's head",
    "lm_head.bias": "would shift the logits",
}


@pytest.mark.parametrize("name", UNEXPECTED)
def test_tensors_without_a_place_are_explained(name: str, tmp_path: Path) -> None:
    """What usually stands there is named."""
    source = text_source(tmp_path / "source", tie_word_embeddings=False)
    rewrite(source, lambda tensors: tensors | {name: torch.ones(32)})
    with pytest.raises(SourceError, match=f"1 unexpected.*{UNEXPECTED[name]}"):
        converted(source, tmp_path / "out", template_file(tmp_path, PROMPT))
