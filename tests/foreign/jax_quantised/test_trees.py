"""Trees that Qwix and AQT quantised, as Tunix and MaxText save them, become classifiers with the library's own numbers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForSequenceClassification

import jaxconv
from jaxconv.cli import main
from jaxconv.errors import JaxconvError, RefusedError
from jaxconv.layouts import to_hf
from jaxconv.quantisation.jax_trees import Codes, open_quantised_tree
from jaxconv.readers import open_checkpoint
from tests.foreign.cases import TOKENS, Case, unpack

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = sorted(path.name.removesuffix(".tar.xz") for path in FIXTURES.glob("*.tar.xz"))
GOOD = [name for name in NAMES if "int4" not in name]
# Both libraries, arrays one by one and stacked; the others take some seconds each.
FAST = ("qwix_qwen3_int8", "aqt_qwen3_scanned")
SCORED = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in GOOD]
PAIRS = [("t4 t9", "t11 t12 t13"), ("t5", "t6 t7")]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def converted(case: Case, out: Path) -> jaxconv.ConversionResult:
    """The conversion of a case, dequantised."""
    options = {"classifier_from_tokens": TOKENS, "backend": "numpy", "dequantize": True}
    return jaxconv.convert(case.weights, out, base=case.original, **options)


def test_both_libraries_have_fixtures() -> None:
    """An empty folder would make the tests below pass by running none."""
    assert {name.split("_")[0] for name in GOOD} == {"qwix", "aqt"}
    assert len(GOOD) >= 9


@pytest.mark.parametrize("name", GOOD)
def test_numbers_are_the_librarys_bit_for_bit(tmp_path: Path, name: str) -> None:
    """Every array that the library dequantises itself has the same bits, rounded to bfloat16; none is left out."""
    case = unpack(name, tmp_path, FIXTURES)
    tree = open_quantised_tree(open_checkpoint(case.weights))
    assert tree is not None
    assert tree.library == case.about["quantised_by"]
    plain = tree.plain().tensors
    numbers = {
        array.name.removesuffix(".kernel" if tree.library == "AQT" else ""): array.name for array in tree.arrays.values()
    }
    assert numbers.keys() == case.about["sha256"].keys()
    for place, digest in case.about["sha256"].items():
        array = plain[numbers[place]].read()
        assert array.dtype == BFLOAT16
        stacked = tree.library == "AQT" and ".layers." in place
        stored = np.ascontiguousarray(np.swapaxes(array, 0, 1) if stacked else array)
        assert hashlib.sha256(stored.tobytes()).hexdigest() == digest, place


@pytest.mark.parametrize("name", SCORED)
def test_the_classifier_gives_the_librarys_logits(tmp_path: Path, name: str) -> None:
    """The output is plain, records what was undone, is proven, and scores as the library does with its own numbers."""
    case = unpack(name, tmp_path, FIXTURES)
    result = converted(case, tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert "quantization_config" not in config
    record = json.loads((tmp_path / "out/jaxconv.json").read_text())["dequantised"]
    assert record["library"] == case.about["quantised_by"]
    assert record["arrays"] == len(case.about["sha256"])
    assert any("converted to BF16 numbers" in warning for warning in result.plan.warnings)
    tensors = load_file(tmp_path / "out/model.safetensors")
    projections = [array for key, array in tensors.items() if key.endswith("mlp.down_proj.weight")]
    assert projections
    assert all(array.dtype == BFLOAT16 for array in projections)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        scores = model(torch.tensor(case.about["token_ids"])).logits[:, 0].numpy()
    error = np.abs(scores - (case.logits[:, 7] - case.logits[:, 5])).max()
    assert error <= 1e-4
    assert error < case.about["moved_by_quantisation"] / 10  # the original's numbers would be seen
    report = jaxconv.verify(case.weights, tmp_path / "out", base=case.original, pairs=PAIRS)
    assert report.findings == ()
    assert report.scores is not None
    assert any("dequantised once more" in note for note in report.notes)


def test_a_quantised_head_is_not_rounded(tmp_path: Path) -> None:
    """The row is the difference of float32 products of codes and scales, not of bfloat16 numbers; the record says so."""
    case = unpack("qwix_qwen3_int8", tmp_path, FIXTURES)
    converted(case, tmp_path / "out")
    raw = open_checkpoint(case.weights).tensors
    codes, scale = (raw[f"lm_head.w.array.{part}"].read().astype(np.float32) for part in ("qvalue", "scale"))
    rows = (codes * scale).T[[5, 7]]
    row = load_file(tmp_path / "out/model.safetensors")["score.weight"][0]
    assert np.array_equal(row, rows[1] - rows[0])
    assert not np.array_equal(row, np.subtract(*rows[::-1].astype(BFLOAT16).astype(np.float32)))
    assert "float32" in json.loads((tmp_path / "out/jaxconv.json").read_text())["dequantised"]["head"]


@pytest.mark.parametrize("name", ["qwix_gemma2_int8", "aqt_qwen3_scanned"])
def test_the_proof_sees_one_wrong_number(tmp_path: Path, name: str) -> None:
    """A weight one step of bfloat16 off is named, and so is a record that keeps silent."""
    case = unpack(name, tmp_path, FIXTURES)
    converted(case, tmp_path / "out")
    path = tmp_path / "out/model.safetensors"
    tensors = load_file(path)
    key = "model.layers.1.self_attn.v_proj.weight"
    tensors[key] = tensors[key].copy()
    tensors[key].view(np.uint16)[3, 4] += 1
    save_file(tensors, path, {"format": "pt"})
    record = json.loads((tmp_path / "out/jaxconv.json").read_text())
    del record["dequantised"]
    (tmp_path / "out/jaxconv.json").write_text(json.dumps(record))
    findings = jaxconv.verify(case.weights, tmp_path / "out", base=case.original, structure_only=True).findings
    assert any(key in finding and "1 of" in finding for finding in findings)
    assert any("records nothing as dequantised" in finding for finding in findings)


def test_inspect_says_it(tmp_path: Path) -> None:
    """Without --dequantize a refusal that names it; with it what the codes are and what becomes of them."""
    case = unpack("aqt_qwen3_unscanned", tmp_path, FIXTURES)
    options = {"base": case.original, "classifier_from_tokens": TOKENS}
    assert "--dequantize" in jaxconv.inspect(case.weights, **options)["refusals"][0]
    description = jaxconv.inspect(case.weights, **options, dequantize=True)
    assert description["convertible"]
    assert description["quantisation"] == "AQT, 21 arrays of I8 with scales, dequantised to BF16"


def test_it_has_to_be_asked_for(tmp_path: Path) -> None:
    """Rounding to bfloat16 is a decision: without the option nothing is written."""
    case = unpack("qwix_qwen3_int8", tmp_path, FIXTURES)
    with pytest.raises(RefusedError, match=r"quantised by Qwix: \S+ is I8.*--dequantize"):
        jaxconv.convert(case.weights, tmp_path / "out", base=case.original, classifier_from_tokens=TOKENS)
    assert not (tmp_path / "out").exists()


def test_codes_of_four_bits_are_refused_by_name(tmp_path: Path) -> None:
    """safetensors and NumPy have no such dtype: the array and its dtype are named."""
    case = unpack("qwix_llama_int4", tmp_path, FIXTURES)
    expected = r"qvalue\S* is of dtype int4; expected.*Convert the parameters from before quantisation.*qwix\.dequantize"
    with pytest.raises(JaxconvError, match=expected):
        converted(case, tmp_path / "out")


def test_the_next_step_for_four_bits_works(tmp_path: Path) -> None:
    """The refused array as qwix.dequantize gives it, (code - zero point) * scale, is one that the reader takes."""
    import jax.numpy as jnp
    import orbax.checkpoint as ocp

    tree = {"codes": jnp.ones((4, 4), jnp.int4), "numbers": jnp.ones((4, 4), jnp.int4).astype(jnp.bfloat16)}
    for name, array in tree.items():
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / name, {"kernel": array})
    with pytest.raises(JaxconvError, match="is of dtype int4"):
        open_checkpoint(tmp_path / "codes")
    assert open_checkpoint(tmp_path / "numbers").tensors["kernel"].dtype == "BF16"


@pytest.mark.parametrize("name", FAST)
def test_commands_from_a_tree_to_its_proof(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """convert refuses and names --dequantize, with it converts, verify proves the output and finds one that was spoiled."""
    case = unpack(name, tmp_path, FIXTURES)
    out, base, pairs = tmp_path / "out", str(case.original), tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps({"query": query, "document": document}) + "\n" for query, document in PAIRS))
    convert = ["convert", str(case.weights), str(out), "--base", base, "--classifier-from-tokens", json.dumps(TOKENS)]
    assert main(convert) == 1
    assert "Pass --dequantize" in capsys.readouterr().err and not out.exists()
    assert main([*convert, "--dequantize", "--backend", "numpy"]) == 0
    assert "converted to BF16 numbers" in capsys.readouterr().out
    verify = ["verify", str(case.weights), str(out), "--base", base, "--pairs", str(pairs)]
    assert main([*verify, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] and report["structure"]["identical"] == report["structure"]["tensors"] > 10
    assert report["scores"]["kind"] == "independent" and report["scores"]["max_abs_error"] <= 1e-4
    tensors = load_file(out / "model.safetensors")
    tensors["model.norm.weight"] = -tensors["model.norm.weight"]
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    assert main([*verify, "--structure-only"]) == 1
    assert "model.norm.weight" in capsys.readouterr().out


def test_of_stacked_layers_one_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a layer dequantises that layer, not the stack: else time grows with the square of the layers."""
    case = unpack("aqt_qwen3_scanned", tmp_path, FIXTURES)
    tree = open_quantised_tree(open_checkpoint(case.weights))
    assert tree is not None
    computed: list[int] = []
    numbers = Codes._numbers

    def counted(codes: Codes, array: np.ndarray, *rest: object) -> np.ndarray:
        computed.append(array.size)
        return numbers(codes, array, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Codes, "_numbers", counted)
    ref = to_hf(tree.plain(), case.config, "maxtext")[1].tensors["model.layers.2.mlp.up_proj.weight"]
    assert ref.read().shape == (40, 24)
    assert computed == [40 * 24]
