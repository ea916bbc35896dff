"""What `verify` catches: each damage to a good output is found and named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import jaxconv
from jaxconv.cli import main
from jaxconv.errors import VerificationError
from tests.verification.test_verify import TOKENS, converted

Damage = Callable[[Path], None]


def flipped(name: str, position: int = 0) -> Damage:
    """One bit of one byte of a tensor is turned."""

    def damage(output: Path) -> None:
        for path in output.glob("*.safetensors"):
            raw = bytearray(path.read_bytes())
            length = int.from_bytes(raw[:8], "little")
            entry = json.loads(raw[8 : 8 + length]).get(name)
            if entry is not None:
                raw[8 + length + entry["data_offsets"][0 if position >= 0 else 1] + position] ^= 1
                path.unlink()  # a linked file is the source's too
                path.write_bytes(raw)
                return
        raise AssertionError(f"no {name}")

    return damage


def saved(change: Callable[[dict[str, Any]], Any], name: str = "model.safetensors") -> Damage:
    """The tensors of a file changed and saved anew."""

    def damage(output: Path) -> None:
        tensors = load_file(output / name)
        save_file(change(tensors) or tensors, output / name, {"format": "pt"})

    return damage


def edited(file: str, change: Callable[[dict[str, Any]], Any]) -> Damage:
    """A JSON file changed."""

    def damage(output: Path) -> None:
        document = json.loads((output / file).read_text())
        (output / file).write_text(json.dumps(change(document) or document))

    return damage


def config(**keys: Any) -> Damage:
    """Keys of config.json set."""
    return edited("config.json", lambda document: document | keys)


def swap_tokens(document: dict[str, Any]) -> None:
    """The record with its tokens in the other order."""
    document["tokens"].reverse()


def rounded(tensors: dict[str, Any]) -> None:
    """The score row rounded to bfloat16 and widened again."""
    tensors["score.weight"] = tensors["score.weight"].bfloat16().float()


def write(name: str, text: str) -> Damage:
    """A file of this text."""
    return lambda output: (output / name).write_text(text) and None


def other_tokenizer(output: Path) -> None:
    """A tokenizer with one piece more."""
    document = json.loads((output / "tokenizer.json").read_text())
    document["model"]["vocab"]["zebra"] = 300
    (output / "tokenizer.json").write_text(json.dumps(document))


LABELS = {"0": "LABEL_0", "1": "LABEL_1"}
CASES: dict[str, tuple[Damage, str]] = {
    "flipped byte, first": (flipped("model.embed_tokens.weight"), "model.embed_tokens.weight differs"),
    "flipped byte, last": (flipped("model.norm.weight", -1), "model.norm.weight differs from the source in 1 of 64"),
    "flipped byte, layer": (flipped("model.layers.1.mlp.up_proj.weight", 77), "layers.1.mlp.up_proj.weight differs"),
    "flipped byte, score": (flipped("score.weight", 8), "score.weight differs from the rows of the source in 1 of 64"),
    "bfloat16 row": (saved(rounded), "score.weight differs.*rounded to bfloat16"),
    "negated row": (saved(lambda t: t | {"score.weight": -t["score.weight"]}), "opposite sign.*tokens are swapped"),
    "bfloat16 stored": (saved(lambda t: t | {"score.weight": t["score.weight"].bfloat16()}), "score.weight is BF16"),
    "missing score": (saved(lambda t: t.pop("score.weight") is None or t), "score.weight is missing"),
    "stray bias": (saved(lambda t: t | {"score.bias": t["score.weight"][0, :1].clone()}), "score.bias differs"),
    "missing tensor": (saved(lambda t: t.pop("model.norm.weight") is None or t), "model.norm.weight is missing"),
    "extra head": (saved(lambda t: t | {"lm_head.weight": t["model.norm.weight"] + 0}), "lm_head.weight is in the output"),
    "another dtype": (
        saved(lambda t: t | {"model.norm.weight": t["model.norm.weight"].float()}),
        r"model.norm.weight is F32 \[64\]; expected BF16",
    ),
    "swapped record": (edited("jaxconv.json", swap_tokens), "opposite sign.*swapped"),
    "record of other rows": (edited("jaxconv.json", lambda d: d["head"].update(sha256="0" * 64)), "another sha256"),
    "renamed token": (edited("jaxconv.json", lambda d: d["tokens"][0].update(text="nope")), "names token .*'nope'"),
    "no record": (lambda output: (output / "jaxconv.json").unlink(), "no jaxconv.json"),
    "num_labels": (config(num_labels=2), "num_labels 2; expected 1"),
    "id2label": (config(id2label=LABELS), r"expected 1 labels \(num_labels\)"),
    "label2id": (config(label2id={"LABEL_0": 1}), "label2id"),
    "architecture": (config(architectures=["Qwen3ForCausalLM"]), "Qwen3ForSequenceClassification"),
    "on-the-fly tokens": (config(classifier_from_token=["no", "yes"]), "classifier_from_token.*on the fly"),
    "on-the-fly method": (config(method="from_2_way_softmax"), "method .*on the fly"),
    "remote code": (config(auto_map={"AutoModel": "x.Y"}), "auto_map"),
    "problem type": (config(problem_type="regression"), "problem_type"),
    "dtype": (config(dtype="float32"), "dtype 'float32'; the backbone is bfloat16"),
    "separator": (config(use_sep_token=True), "use_sep_token"),
    "activation": (config(sentence_transformers={"activation_fn": "x.Identity"}), "activation Identity"),
    "another pad token": (config(pad_token_id=3), "pad_token_id 3"),
    "another rope": (config(rope_theta=1.0), "rope_theta 1.0"),
    "key lost": (edited("config.json", lambda d: d.pop("rms_norm_eps") and d), "no rms_norm_eps"),
    "another tokenizer": (other_tokenizer, "tokenizer.json differs from the source's"),
    "tokenizer setting": (edited("tokenizer_config.json", lambda d: d | {"add_bos_token": True}), "add_bos_token True"),
    "tokenizer file more": (write("added_tokens.json", "{}"), "added_tokens.json is in the output"),
    "tokenizer file less": (lambda output: (output / "tokenizer.json").unlink(), "tokenizer.json of the source is missing"),
    "no template": (lambda output: (output / "score_template.jinja").unlink(), "no score_template.jinja"),
    "template without document": (write("score_template.jinja", "{{ messages[0].content }}"), "without the document"),
    "broken template": (write("score_template.jinja", "{% if %}"), "cannot be rendered"),
    "stale bin": (write("pytorch_model.bin", "x"), "other formats"),
    "adapter": (write("adapter_config.json", "{}"), "would load an adapter"),
    "truncated": (
        lambda output: (output / "model.safetensors").write_bytes((output / "model.safetensors").read_bytes()[:-1]) and None,
        "cannot be opened",
    ),
}
INDEX = "model.safetensors.index.json"
NORM = "model.norm.weight"
SHARDED: dict[str, tuple[Damage, str]] = {
    "flipped byte": (flipped(NORM), f"{NORM} differs"),
    "wrong entry": (edited(INDEX, lambda d: d["weight_map"].update({NORM: "model-score.safetensors"})), f"has {NORM} in"),
    "entry less": (edited(INDEX, lambda d: d["weight_map"].pop(NORM) and d), f"has {NORM} in no file"),
    "entry more": (edited(INDEX, lambda d: d["weight_map"].update({"lm_head.weight": "x"})), "lm_head.weight in x"),
    "total_size": (edited(INDEX, lambda d: d["metadata"].update(total_size=1)), "total_size 1;"),
    "no index": (lambda output: (output / INDEX).unlink(), "there is no model.safetensors.index.json"),
    "single file beside": (
        lambda output: shutil.copy(output / "model-score.safetensors", output / "model.safetensors") and None,
        "would load it alone",
    ),
    "missing score file": (lambda output: (output / "model-score.safetensors").unlink(), "score.weight is missing"),
    "source's head": (
        saved(lambda t: t | {"lm_head.weight": t["score.weight"].clone()}, "model-score.safetensors"),
        "lm_head.weight is in the output",
    ),
}


@pytest.fixture(scope="module")
def outputs(qwen3: Path, untied: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Source and good output: one file, and several linked ones."""
    folder = tmp_path_factory.mktemp("good")
    single, shards = converted(qwen3, folder / "single"), converted(untied, folder / "shards", copy_mode="link")
    assert jaxconv.verify(qwen3, single, structure_only=True).passed
    assert jaxconv.verify(untied, shards, structure_only=True).passed
    return {"single": (qwen3, single), "shards": (untied, shards)}


@pytest.mark.parametrize(
    ("kind", "name"), [("single", name) for name in CASES] + [("shards", name) for name in SHARDED], ids=str
)
def test_damage_is_named(kind: str, name: str, outputs: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """The report fails and one of its sentences says what differs."""
    source, good = outputs[kind]
    damage, says = (CASES if kind == "single" else SHARDED)[name]
    shutil.copytree(good, tmp_path / "out")
    damage(tmp_path / "out")
    tokens = None if (tmp_path / "out" / "jaxconv.json").is_file() else TOKENS
    report = jaxconv.verify(source, tmp_path / "out", structure_only=True, classifier_from_tokens=tokens)
    assert not report.passed
    assert any(re.search(says, finding, re.DOTALL) for finding in report.findings), report.findings


def test_every_tensor_is_guarded(outputs: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    """A byte turned in any tensor of the output fails and names that tensor alone."""
    source, good = outputs["single"]
    with safe_open(good / "model.safetensors", "np") as file:
        names = list(file.keys())
    assert len(names) == 25
    for number, name in enumerate(names):
        output = tmp_path / str(number)
        shutil.copytree(good, output)
        flipped(name, 3)(output)
        report = jaxconv.verify(source, output, structure_only=True)
        assert len(report.findings) == 1 and f"tensor {name} differs" in report.findings[0]
        assert report.head.exact is (name != "score.weight")
        assert report.structure.mismatched == (() if name == "score.weight" else (name,))


def test_flags_overrule_the_record(qwen3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An output made with swapped tokens is consistent in itself; the flags show it. Exit code 1."""
    output = converted(qwen3, tmp_path, classifier_from_tokens=["yes", "no"])
    arguments = ["verify", str(qwen3), str(output), "--structure-only"]
    assert main(arguments) == 0
    assert main([*arguments, "--classifier-from-tokens", '["no","yes"]']) == 1
    said = capsys.readouterr().out
    assert "They are swapped" in said and "opposite sign" in said and "FAILED" in said


def test_another_source_is_seen(qwen3: Path, tmp_path: Path) -> None:
    """An output held against a model that differs in a few weights names them."""
    source = tmp_path / "source"
    shutil.copytree(qwen3, source)
    saved(lambda t: t | {NORM: t[NORM] + 1})(source)
    report = jaxconv.verify(source, converted(qwen3, tmp_path), structure_only=True)
    assert report.structure.mismatched == (NORM,) and report.head.exact


def test_one_ulp_is_seen_without_a_scale(qwen3: Path, tmp_path: Path) -> None:
    """A row one ulp off fails where nothing is multiplied in, two ulp off where a scale is."""

    def moved(places: int) -> Damage:
        def change(tensors: dict[str, Any]) -> None:
            array = tensors["score.weight"].numpy()
            for _ in range(places):
                array[0, 5] = np.nextafter(array[0, 5], np.float32(np.inf))

        return saved(change)

    plain = converted(qwen3, tmp_path / "plain")
    moved(1)(plain)
    assert not jaxconv.verify(qwen3, plain, structure_only=True).head.exact
    scaled = converted(qwen3, tmp_path / "scaled", scale=1 / 3)
    moved(3)(scaled)
    assert not jaxconv.verify(qwen3, scaled, structure_only=True).head.exact


def test_a_wrong_row_shows_in_the_scores_too(qwen3: Path, tmp_path: Path) -> None:
    """With a wrong row the scores differ too; the report has both."""
    output = converted(qwen3, tmp_path)
    saved(lambda t: t | {"score.weight": t["score.weight"] * 1.01})(output)
    report = jaxconv.verify(qwen3, output, pairs=[("is it", "the that"), ("no", "this")], backend="jax")
    assert report.scores is not None and report.scores.max_abs_error > report.scores.tolerance
    assert any("raw scores differ" in finding for finding in report.findings)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (config(rms_norm_eps=10.0), "raw scores differ"),
        (flipped("model.norm.weight", 1), "raw scores differ"),
        (other_tokenizer, "cannot be used as a tokenizer"),
        (saved(lambda t: t.pop("model.norm.weight") is None or t), "scores were not compared: tensors"),
        (saved(lambda t: t.pop("score.weight") is None or t), "scores were not compared: the score head"),
    ],
    ids=["config", "norm", "broken tokenizer", "tensor less", "no head"],
)
def test_scores_of_a_damaged_output(damage: Damage, says: str, qwen3: Path, tmp_path: Path) -> None:
    """Where the output still runs its scores are compared, else the report says why not."""
    output = converted(qwen3, tmp_path)
    damage(output)
    if damage is other_tokenizer:
        (output / "tokenizer.json").write_text("{}")
    pairs = [("is it", "the that"), ("no", "this")]
    report = jaxconv.verify(qwen3, output, pairs=pairs, backend="jax")
    assert any(says in finding for finding in report.findings), report.findings
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["passed"] is False


def test_a_failed_proof_publishes_nothing(qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When what was written is not the source, convert(verify=True) raises, and leaves nothing."""
    import jaxconv.conversion as conversion

    def rounded_head(*arguments: Any) -> Any:
        head = compute(*arguments)
        weight = head.weight.astype(ml_dtypes.bfloat16).astype(np.float32)
        return type(head)(weight, head.bias, head.rows_sha256)

    compute = conversion.compute_head
    monkeypatch.setattr(conversion, "compute_head", rounded_head)
    with pytest.raises(VerificationError, match=r"score\.weight differs.*rounded to bfloat16"):
        converted(qwen3, tmp_path, verify=True)
    assert not list(tmp_path.iterdir())
