"""`jaxconv.load` and `Scorer`: typed arguments, errors in the caller's terms, ranking, compiled shapes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import jaxconv
import jaxconv.backends
from jaxconv.errors import BackendUnavailable, SourceError, UsageError
from jaxconv.scoring import Ranked, Scorer, load

DOCUMENTS = ["that that", "Paris is the capital.", "no", "yes"]


@pytest.fixture(scope="module")
def output(qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted classifier."""
    directory = tmp_path_factory.mktemp("load") / "out"
    jaxconv.convert(qwen3, directory, classifier_from_tokens=["no", "yes"], backend="numpy")
    return directory


@pytest.fixture(scope="module")
def scorer(output: Path) -> Scorer:
    return load(output, backend="jax")


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no config": lambda out: (out / "config.json").unlink(),
    "config not JSON": lambda out: (out / "config.json").write_text("{"),
    "config a list": lambda out: (out / "config.json").write_text("[]"),
    "config with a string for a number": lambda out: edit(out / "config.json", num_key_value_heads="x"),
    "config of another size": lambda out: edit(out / "config.json", hidden_size=72),
    "no weights": lambda out: (out / "model.safetensors").unlink(),
    "truncated weights": lambda out: truncate(out / "model.safetensors"),
    "weights not safetensors": lambda out: (out / "model.safetensors").write_text("nothing"),
    "no tokenizer": lambda out: (out / "tokenizer.json").unlink(),
    "tokenizer not JSON": lambda out: (out / "tokenizer.json").write_text("{"),
    "tokenizer of nothing": lambda out: (out / "tokenizer.json").write_text("{}"),
    "tokenizer config not JSON": lambda out: (out / "tokenizer_config.json").write_text("{"),
    "epsilon a string": lambda out: edit(out / "config.json", rms_norm_eps="x"),
    "number of positions a list": lambda out: edit(out / "config.json", max_position_embeddings=[]),
    "no template": lambda out: (out / "score_template.jinja").unlink(),
    "template not UTF-8": lambda out: (out / "score_template.jinja").write_bytes(b"\xff\xfe\xff"),
}


@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_directory_is_a_source_error(output: Path, tmp_path: Path, damage: str, backend: str) -> None:
    """Whatever is wrong with a directory, the error is one of jaxconv's and names a file, a tensor or a key."""
    shutil.copytree(output, tmp_path / "out")
    DAMAGES[damage](tmp_path / "out")
    with pytest.raises(SourceError) as caught:
        load(tmp_path / "out", backend=backend)
    assert len(str(caught.value)) > 20


def test_an_unsupported_attention_implementation_is_named(output: Path, tmp_path: Path) -> None:
    """A config.json that asks for an attention that is not there is refused with its name."""
    shutil.copytree(output, tmp_path / "out")
    edit(tmp_path / "out" / "config.json", _attn_implementation="no_such_attention")
    with pytest.raises(SourceError, match="no_such_attention"):
        load(tmp_path / "out", backend="torch")


def test_a_source_without_a_score_head_is_refused(output: Path, qwen3: Path) -> None:
    """A causal LM is not a classifier."""
    for backend in ("jax", "torch"):
        with pytest.raises(SourceError, match=r"no score\.weight"):
            load(qwen3, backend=backend)


def test_arguments_are_checked_by_name(output: Path) -> None:
    """Unknown values list the known ones; wrong types and unknown keywords are usage errors."""
    with pytest.raises(BackendUnavailable, match=r"'tensorflow'.*jax, numpy, torch"):
        load(output, backend="tensorflow")
    with pytest.raises(UsageError, match="runs no models"):
        load(output, backend="numpy")
    with pytest.raises(BackendUnavailable, match=r"'npu'.*auto, cpu, gpu, tpu"):
        load(output, device="npu")
    with pytest.raises(UsageError, match=r"'int8'.*float32, bfloat16, float16"):
        load(output, dtype="int8")
    with pytest.raises(UsageError, match="dtype"):
        load(output, dtype=None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="quantized"):
        load(output, quantized=True)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"jax\.sharding\.Mesh"):
        load(output, backend="jax", mesh="mesh")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one device"):
        load(output, backend="torch", mesh="mesh")  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=r"config\.json"):
        load(output / "absent")


@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize("device", ["gpu", "tpu"])
def test_a_device_that_is_missing_is_named(output: Path, backend: str, device: str) -> None:
    """Both backends refuse a device that the machine does not have in the same words."""
    if device == "gpu" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendUnavailable, match=f"backend '{backend}' cannot use device '{device}'"):
        load(output, backend=backend, device=device)


def test_auto_means_cuda_for_models_and_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rule says what a device name means for torch, for all of its work."""
    from torch_backend.arithmetic import TorchArithmetic, torch_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [torch_device(name) for name in ("auto", "gpu", "cpu")] == ["cuda", "cuda", "cpu"]
    assert TorchArithmetic("auto").device == jaxconv.backends.get_backend("torch").device == "cuda"


def test_rank_sorts_best_first(scorer: Scorer) -> None:
    """`rank` holds what `score` gives, in order, cut to top_k."""
    scores = scorer.score("capital?", DOCUMENTS)
    ranked = scorer.rank("capital?", DOCUMENTS)
    assert [row.score for row in ranked] == sorted(scores, reverse=True)
    assert all(row == Ranked(row.index, scores[row.index], DOCUMENTS[row.index]) for row in ranked)
    assert scorer.rank("capital?", DOCUMENTS, top_k=2) == ranked[:2]
    assert scorer.rank("capital?", []) == [] == scorer.rank("capital?", DOCUMENTS, top_k=0)
    with pytest.raises(UsageError, match="top_k"):
        scorer.rank("capital?", DOCUMENTS, top_k=-1)


def test_one_string_is_not_a_list_of_documents(scorer: Scorer) -> None:
    """A single string would otherwise be scored letter by letter."""
    with pytest.raises(UsageError, match=r"documents is 'Paris'.*a list"):
        scorer.score("capital?", "Paris")
    with pytest.raises(UsageError, match="documents"):
        scorer.rank("capital?", [1])  # type: ignore[list-item]


def test_repr_is_short(scorer: Scorer, output: Path) -> None:
    """The representation names directory and backend."""
    assert repr(scorer) == f"Scorer({str(output)!r}, backend='jax')"


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_token_without_an_embedding_is_named(output: Path, tmp_path: Path, backend: str) -> None:
    """A tokenizer that knows more tokens than the model: the error names the text of the token."""
    shutil.copytree(output, tmp_path / "out")
    path = tmp_path / "out" / "tokenizer.json"
    document = json.loads(path.read_text())
    extra = {"id": 320, "content": "<extra>", "single_word": False, "lstrip": False, "rstrip": False}
    document["added_tokens"].append(extra | {"normalized": False, "special": True})
    document["model"]["vocab"] |= {f"filler{number}": number for number in range(len(document["model"]["vocab"]), 320)}
    path.write_text(json.dumps(document))
    model = load(tmp_path / "out", backend=backend)
    with pytest.raises(UsageError, match=r"'<extra>' \(320\).*320 rows"):
        model.encode("a", "b <extra> c")
    with pytest.raises(UsageError, match=r"'<extra>' \(id 320\).*0 to 319"):
        model.token_logits([[1, 320]])
    with pytest.raises(UsageError, match="<extra>"):
        model.score("a", ["b", "b <extra> c"])
    assert len(model.score("a", ["b"])) == 1


def test_the_last_chunk_of_a_stream_compiles_nothing(output: Path, tmp_path: Path) -> None:
    """After 256 pairs of similar length, remainders of 100 and 9 pairs run in shapes that are compiled already."""
    model = load(output, backend="jax")
    pairs = [("capital?", "that " * (20 + number % 8)) for number in range(256)]
    model.score_pairs(pairs)
    compiled = model.compilations
    expected = load(output, backend="torch").score_pairs(pairs[:9], raw=True)
    model.score_pairs(pairs[:100])
    assert model.score_pairs(pairs[:9], raw=True) == pytest.approx(expected, abs=1e-5)
    assert model.compilations == compiled <= 2
