"""The main job: exact outputs from every backend, container and copy mode."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

import jaxconv
from jaxconv.backends import names
from jaxconv.families.table import FAMILIES as TABLE
from tests.support.scores import PROMPTS, causal_logits, classifier_logits
from tests.support.tiny import FAMILIES, tiny_checkpoint, tokenizer

TOKENS = ["no", "yes"]


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder, read by the safetensors library."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}
    return found


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of every file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("copy_mode", ["copy", "link", "reflink"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tie", [True, False])
def test_backbone_is_identical_and_head_exact(tmp_path: Path, tie: bool, shards: int, copy_mode: str) -> None:
    """Every backbone tensor has the source's bits, and the score row is the float32 difference of the stored rows."""
    source = tiny_checkpoint(tmp_path / "source", "qwen3", tie=tie, shards=shards)
    output = tmp_path / "out"
    jaxconv.convert(source, output, classifier_from_tokens=TOKENS, copy_mode=copy_mode, backend="numpy")

    before, after = tensors(source), tensors(output)
    rows = before["model.embed_tokens.weight" if tie else "lm_head.weight"]
    no, yes = tokenizer(False).convert_tokens_to_ids(TOKENS)
    expected = rows[yes].astype(np.float32) - rows[no].astype(np.float32)
    weight = after.pop("score.weight")
    assert weight.dtype == np.float32 and weight.tobytes() == expected[None].tobytes()
    before.pop("lm_head.weight", None)
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_index_is_right(untied: Path, tmp_path: Path) -> None:
    """The index lists exactly the tensors of the files, and total_size is the sum of their bytes."""
    jaxconv.convert(untied, tmp_path / "out", classifier_from_tokens=TOKENS, backend="numpy")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    found = tensors(tmp_path / "out")
    assert sorted(index["weight_map"]) == sorted(found)
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in found.values())
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "out" / file, "np") as opened:
            assert name in opened.keys() and opened.metadata() == {"format": "pt"}


def test_linked_single_file_is_named_as_a_shard(qwen3: Path, tmp_path: Path) -> None:
    """Beside an index there is no model.safetensors, which transformers would load alone."""
    jaxconv.convert(qwen3, tmp_path / "out", classifier_from_tokens=TOKENS, copy_mode="link", backend="numpy")
    assert not (tmp_path / "out" / "model.safetensors").exists()
    linked = tmp_path / "out" / "model-backbone.safetensors"
    assert linked.stat().st_ino == (qwen3 / "model.safetensors").stat().st_ino


def test_every_backend_writes_the_same_bytes(untied: Path, tmp_path: Path) -> None:
    """jax, torch and numpy give the same files, bit for bit, for both methods."""
    for method, tokens in (("from_2_way_softmax", TOKENS), ("no_post_processing", ["Yes", "No", "0"])):
        found = []
        for backend in names():
            output = tmp_path / method / backend / "out"
            jaxconv.convert(untied, output, classifier_from_tokens=tokens, method=method, scale=1 / 3, backend=backend)
            found.append(digests(output))
        assert len(found) == 3
        assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("model_type", [name for name in FAMILIES if TABLE[name].transformers_seq_cls])
def test_transformers_agrees(tmp_path: Path, model_type: str) -> None:
    """The output loads with no key amiss and scores as the causal LM does, batched with padding."""
    source = tiny_checkpoint(tmp_path / "source", model_type)
    jaxconv.convert(source, tmp_path / "out", classifier_from_tokens=TOKENS, backend="numpy")
    ids = tokenizer(False).convert_tokens_to_ids(TOKENS)
    logits = causal_logits(source, PROMPTS, ids)
    scores, report = classifier_logits(tmp_path / "out", PROMPTS)
    bias = tensors(tmp_path / "out").get("score.bias")  # of Phi's head; transformers' class has none, vLLM adds it
    assert not report["missing_keys"] and not report["mismatched_keys"]
    assert set(report["unexpected_keys"]) == (set() if bias is None else {"score.bias"})
    assert scores.shape == (len(PROMPTS), 1)
    if bias is not None:
        scores = scores + float(bias[0])
    assert (scores[:, 0] - (logits[:, 1] - logits[:, 0])).abs().max() <= 1e-4


@pytest.mark.parametrize("model_type", ["granite", "cohere", "cohere2"])
def test_scaled_logits_are_folded(tmp_path: Path, model_type: str) -> None:
    """What the causal LM multiplies its logits by is in the score row: hidden . row is the logit difference."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    source = tiny_checkpoint(tmp_path / "source", model_type)
    jaxconv.convert(source, tmp_path / "out", classifier_from_tokens=TOKENS, backend="numpy")
    row = torch.from_numpy(tensors(tmp_path / "out")["score.weight"][0])
    logits = causal_logits(source, PROMPTS, tokenizer(False).convert_tokens_to_ids(TOKENS))
    model, tokens = AutoModel.from_pretrained(source, dtype=torch.float32), AutoTokenizer.from_pretrained(source)
    with torch.inference_mode():
        hidden = [model(**tokens(p, return_tensors="pt")).last_hidden_state[0, -1] for p in PROMPTS]
    assert (torch.stack(hidden) @ row - (logits[:, 1] - logits[:, 0])).abs().max() <= 1e-4


def test_cast_backbone_keeps_the_head(qwen3: Path, tmp_path: Path) -> None:
    """--dtype float32 widens the backbone exactly; the head is the same row."""
    jaxconv.convert(qwen3, tmp_path / "a", classifier_from_tokens=TOKENS, backend="numpy")
    jaxconv.convert(qwen3, tmp_path / "b", classifier_from_tokens=TOKENS, backend="numpy", dtype="float32")
    stored, cast = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert all(cast[name].dtype == np.float32 for name in cast)
    assert all(np.array_equal(stored[name].astype(np.float32), cast[name]) for name in stored)
    assert json.loads((tmp_path / "b" / "config.json").read_text())["dtype"] == "float32"


def test_config_has_what_consumers_read(qwen3: Path, tmp_path: Path) -> None:
    """One label, no separator, explicit dtype, activation, pad token; on-the-fly keys are gone; other keys stay."""
    source = tmp_path / "source"
    source.mkdir()
    for path in qwen3.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    config = json.loads((source / "config.json").read_text())
    extra = {"classifier_from_token": ["no", "yes"], "method": "from_2_way_softmax", "auto_map": {"x": "y"}, "own": 7}
    (source / "config.json").write_text(json.dumps(config | extra))
    jaxconv.convert(source, tmp_path / "out", classifier_from_tokens=TOKENS, activation="identity", backend="numpy")
    made = json.loads((tmp_path / "out" / "config.json").read_text())
    assert made["architectures"] == ["Qwen3ForSequenceClassification"]
    assert made["id2label"] == {"0": "LABEL_0"} and made["dtype"] == "bfloat16" and made["own"] == 7
    assert made["use_sep_token"] is False and made["use_pad_token"] is False
    assert made["sentence_transformers"] == {"activation_fn": "torch.nn.modules.linear.Identity"}
    assert made["pad_token_id"] == 0
    assert not {"classifier_from_token", "method", "auto_map"} & made.keys()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (source / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_calibration_is_folded(qwen3: Path, tmp_path: Path) -> None:
    """score = scale x logit + bias: the row is scaled, the bias is score.bias."""
    jaxconv.convert(qwen3, tmp_path / "a", classifier_from_tokens=TOKENS, backend="numpy")
    jaxconv.convert(qwen3, tmp_path / "b", classifier_from_tokens=TOKENS, backend="numpy", scale=0.5, bias=-4.5)
    plain, folded = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert np.array_equal(plain["score.weight"] * np.float32(0.5), folded["score.weight"])
    assert folded["score.bias"].tolist() == [-4.5] and "score.bias" not in plain


@pytest.mark.slow
def test_bf16_row_would_err(tmp_path: Path) -> None:
    """On SmolLM2 the F32 row gives the causal LM's logit difference to 1e-4; a bf16-rounded row errs over 1e-3."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from examples.smollm2 import checkpoint

    source, tokens = checkpoint(), ["ĠNo", "ĠYes"]
    jaxconv.convert(source, tmp_path / "out", classifier_from_tokens=tokens, backend="jax", copy_mode="link")
    prompts = [f"Query: {q}\nPassage: {q} is here\nRelevant:" for q in ("Paris", "cats", "tides", "bread")]
    logits = causal_logits(source, prompts, [2838, 9230])
    row = torch.from_numpy(tensors(tmp_path / "out")["score.weight"][0])
    rounded = torch.from_numpy(row.numpy().astype(ml_dtypes.bfloat16).astype(np.float32))
    model, tokenize = AutoModel.from_pretrained(source, dtype=torch.float32), AutoTokenizer.from_pretrained(source)
    with torch.inference_mode():
        hidden = torch.stack([model(**tokenize(p, return_tensors="pt")).last_hidden_state[0, -1] for p in prompts])
    truth = logits[:, 1] - logits[:, 0]
    assert (hidden @ row - truth).abs().max() <= 1e-4
    assert (hidden @ rounded - truth).abs().max() > 1e-3


def test_dry_run_writes_nothing(qwen3: Path, tmp_path: Path) -> None:
    """--dry-run plans and computes, and leaves no file."""
    result = jaxconv.convert(qwen3, tmp_path / "out", classifier_from_tokens=TOKENS, dry_run=True, backend="numpy")
    assert result.output is None and result.to_json()["tokens"][0]["text"] == "no"
    assert not list(tmp_path.iterdir())


def test_overwrite_replaces_only_our_outputs(qwen3: Path, tmp_path: Path) -> None:
    """--overwrite replaces a former output and refuses a folder that jaxconv did not make."""
    jaxconv.convert(qwen3, tmp_path / "out", classifier_from_tokens=TOKENS, backend="numpy")
    jaxconv.convert(qwen3, tmp_path / "out", classifier_from_tokens=["No", "Yes"], backend="numpy", overwrite=True)
    assert json.loads((tmp_path / "out" / "jaxconv.json").read_text())["tokens"][0]["text"] == "No"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(jaxconv.JaxconvError, match="not made by jaxconv"):
        jaxconv.convert(qwen3, tmp_path / "mine", classifier_from_tokens=TOKENS, backend="numpy", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_interruption_leaves_nothing(qwen3: Path, tmp_path: Path) -> None:
    """Ctrl-C while bytes are written leaves neither output nor temporary folder."""

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jaxconv.convert(qwen3, tmp_path / "out", classifier_from_tokens=TOKENS, backend="numpy", progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(qwen3: Path, tmp_path: Path) -> None:
    """When the system refuses to write further, the message says so and nothing is left behind."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); "
        "from jaxconv.cli import main; "
        f"sys.exit(main(['convert', {str(qwen3)!r}, {str(tmp_path / 'out')!r}, '--token-ids', '[5,6]']))"
    )
    found = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "Nothing was published" in found.stderr and "Traceback" not in found.stderr
    assert not list(tmp_path.iterdir())


def test_a_termination_signal_leaves_nothing(untied: Path, tmp_path: Path) -> None:
    """Ctrl-C sent to the process while it writes: exit code 130, nothing left, the source as it was."""
    before = digests(untied)
    code = (
        "import os, signal, jaxconv.cli.convert as command; from jaxconv.cli import main; "
        "import contextlib; kill = lambda done, total: os.kill(os.getpid(), signal.SIGINT); "
        "command.progress_bar = lambda quiet: contextlib.nullcontext(kill); "
        f"import sys; sys.exit(main(['convert', {str(untied)!r}, {str(tmp_path / 'out')!r}, '--token-ids', '[5,6]', "
        "'--backend', 'numpy']))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 130 and "interrupted" in found.stderr
    assert not list(tmp_path.iterdir())
    assert digests(untied) == before
