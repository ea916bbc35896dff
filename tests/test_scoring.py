"""Scores of a small classifier: JAX against PyTorch, prompt, truncation, activation, command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification

import jaxconv
from jaxconv.activation import activate
from jaxconv.errors import SourceError, UsageError
from jaxconv.scoring import load
from jaxconv.text.prompt import vllm_template
from tests.support.tiny import tiny_checkpoint

WORDS = ["<pad>", "<unk>", "query", "document", "answer", "a", "b", "c", "d", "e", "f"]
PAIRS = [("a b", "c d e"), ("a", "f"), ("b c", " ".join("abcdef" * 3))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a random Llama classifier with a bias, a word tokenizer and a template with a suffix."""
    path = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_labels=1, pad_token_id=0, bos_token_id=None, eos_token_id=None,
        max_position_embeddings=24,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(path)
    tensors = load_file(path / "model.safetensors") | {"score.bias": torch.tensor([0.75])}
    tensors["score.weight"] = torch.randn(1, 32)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(path / "tokenizer.json"))
    body = "query {{ query }} document {{ document }} answer"
    (path / "score_template.jinja").write_text(vllm_template(body))
    return path


def test_jax_equals_torch(folder: Path) -> None:
    """Raw scores of both backends agree to 1e-5, and include the bias."""
    jax_scorer, torch_scorer = load(folder, backend="jax"), load(folder, backend="torch")
    got, want = jax_scorer.score_pairs(PAIRS, raw=True), torch_scorer.score_pairs(PAIRS, raw=True)
    assert got == pytest.approx(want, abs=1e-5)
    torch_scorer.classifier.model.bias = None  # type: ignore[attr-defined]
    without = torch_scorer.score_pairs(PAIRS, raw=True)
    assert [a - b for a, b in zip(want, without, strict=True)] == pytest.approx([0.75] * 3, abs=1e-6)
    assert jax_scorer.compilations == 1


def test_truncation_keeps_the_suffix(folder: Path) -> None:
    """A document that is too long loses its end; the prompt still ends with the template's last word."""
    scorer = load(folder, backend="jax")
    ids = scorer.encode("a b", "c " * 500)
    assert len(ids) == 24
    assert ids[-1] == WORDS.index("answer")
    with pytest.raises(UsageError, match="query alone"):
        scorer.encode("a " * 500, "c")


def test_activation_follows_the_config() -> None:
    """Identity, sigmoid and softmax as recorded, with one label or several."""
    assert activate({}, [0.0]) == [0.5]
    assert activate({}, [1.0, 1.0]) == [0.5, 0.5]
    assert activate({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, [3.0]) == [3.0]
    assert activate({"problem_type": "regression"}, [3.0]) == [3.0]
    with pytest.raises(SourceError, match="Tanh"):
        activate({"sentence_transformers": {"activation_fn": "torch.nn.Tanh"}}, [3.0])


def test_a_family_that_jax_lacks_is_run_by_torch(tmp_path: Path) -> None:
    """`auto` falls back to PyTorch for Qwen3.5's linear attention; JAX asked for by name says so."""
    source = tiny_checkpoint(tmp_path / "source", "qwen3_5_text")
    jaxconv.convert(source, tmp_path / "out", classifier_from_tokens=["no", "yes"], backend="numpy")
    assert load(tmp_path / "out").backend == "torch"
    with pytest.raises(UsageError, match="qwen3_5_text"):
        load(tmp_path / "out", backend="jax")


@pytest.mark.parametrize(("backend", "foreign"), [("jax", "torch"), ("torch", "jax")])
def test_one_framework_only(folder: Path, backend: str, foreign: str) -> None:
    """Scoring with one framework never imports the other."""
    code = (
        "import sys; from jaxconv.scoring import load; "
        f"print(load({str(folder)!r}, backend={backend!r}).score('a', ['b'])); "
        f"assert {foreign!r} not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_command_line_ranks_and_streams(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`score --json` is sorted by score; `--pairs` writes each line back with the same score."""
    from jaxconv.cli import main

    arguments = ["score", str(folder), "--query", "a", "--document", "b c", "--document", "f", "--json"]
    assert main(arguments) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [r["score"] for r in results] == sorted((r["score"] for r in results), reverse=True)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps({"query": "a", "document": r["document"]}) + "\n" for r in results))
    assert main(["score", str(folder), "--pairs", str(pairs)]) == 0
    streamed = [json.loads(line)["score"] for line in capsys.readouterr().out.splitlines()]
    assert streamed == pytest.approx([r["score"] for r in results], abs=1e-6)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Pairs of a file as editors leave it: a byte order mark, Windows lines, blank ones, keys of its own."""
    lines = [json.dumps({"id": n, "query": "a b", "document": " ".join("abcdef"[: 1 + n % 6])}) for n in range(300)]
    path = tmp_path / "many.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n  \r\n")
    return path


def test_standard_input_is_scored_as_a_file_is(folder: Path, many: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--pairs -` gives the lines of `--pairs FILE`; every key is kept, blank lines and the mark do not count."""
    from jaxconv.cli import main

    assert main(["score", str(folder), "--pairs", str(many), "--backend", "jax"]) == 0
    printed = capsys.readouterr()
    command = [sys.executable, "-m", "jaxconv", "score", str(folder), "--pairs", "-", "--backend", "jax"]
    with many.open("rb") as file:
        piped = subprocess.run(command, stdin=file, capture_output=True, text=True, timeout=300, check=True)
    assert piped.stdout == printed.out and piped.stderr == printed.err == ""
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert [row["id"] for row in rows] == list(range(300))
    assert all(row.keys() == {"id", "query", "document", "score"} for row in rows)


def test_json_of_pairs_is_one_ranked_document(folder: Path, many: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--pairs --json` prints one document, best first; the index is the place in the file, other keys are kept."""
    from jaxconv.cli import main

    assert main(["score", str(folder), "--pairs", str(many), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [row["score"] for row in results] == sorted((row["score"] for row in results), reverse=True)
    assert sorted(row["index"] for row in results) == list(range(300))
    assert all(row["index"] == row["id"] and row["query"] == "a b" for row in results)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{", "line 3 is not valid JSON"),
        (b'{"query": "a"}', "line 3 is not a pair"),
        (b'{"query": "a", "document": "\\ud800"}', "line 3 has half of a surrogate pair"),
        (b"\xff", "line 3 is not UTF-8"),
    ],
    ids=["cut off", "no document", "surrogate", "not UTF-8"],
)
def test_a_wrong_line_stops_before_any_work(
    line: bytes, says: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file is read to its end first: the error names the line, no score is printed."""
    from jaxconv.cli import main

    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"query": "a", "document": "b"}\n\n' + line + b"\n")
    assert main(["score", str(folder), "--pairs", str(path)]) == 2
    said = capsys.readouterr()
    assert says in said.err and said.out == ""


@pytest.mark.parametrize("line", [b"{", b"\xff", b'{"query": "\xe9", "document": "b"}'])
def test_a_stream_is_scored_up_to_a_bad_line(line: bytes, folder: Path) -> None:
    """Lines before a line that is not JSON or not UTF-8 are scored, then the error names that line."""
    command = [sys.executable, "-m", "jaxconv", "score", str(folder), "--pairs", "-", "--backend", "torch"]
    stream = b'{"query": "a", "document": "b"}\n' + line + b"\n"
    done = subprocess.run(command, input=stream, capture_output=True, timeout=300, check=False)
    assert done.returncode == 2 and b"line 2 is not" in done.stderr
    assert json.loads(done.stdout)["document"] == "b"


def test_nothing_to_score_is_an_error(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty file and one that is not there are usage errors."""
    from jaxconv.cli import main

    (tmp_path / "empty.jsonl").write_text("\n\n")
    for name, says in (("empty.jsonl", "has no pairs in 2 lines"), ("absent.jsonl", "cannot be read")):
        assert main(["score", str(folder), "--pairs", str(tmp_path / name)]) == 2
        assert says in capsys.readouterr().err


def test_lines_come_while_the_stream_is_open(folder: Path) -> None:
    """The first chunk's scores are out before the second one is in: memory does not grow with the file."""
    from jaxconv.cli.score import CHUNK

    command = [sys.executable, "-m", "jaxconv", "score", str(folder), "--pairs", "-", "--backend", "torch"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write('{"query": "a", "document": "b"}\n' * CHUNK)
        process.stdin.flush()
        first = [json.loads(process.stdout.readline()) for _ in range(CHUNK)]
        assert process.poll() is None and len(first) == CHUNK
        process.stdin.write('{"query": "a", "document": "c"}\n')
        process.stdin.close()
        assert json.loads(process.stdout.read())["document"] == "c"
    assert process.returncode == 0


def test_progress_is_for_terminals(folder: Path, many: Path) -> None:
    """On a terminal stderr shows how many of how many, the rate, and at the end what was compiled."""
    import os
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "jaxconv", "score", str(folder), "--pairs", str(many), "--backend", "jax"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, timeout=300, check=True)
    os.close(theirs)
    said = os.read(ours, 10000).decode()
    os.close(ours)
    assert " 85%  256 of 300 pairs  " in said and "100%  300 of 300 pairs  " in said and "/s" in said
    assert "300 pairs in " in said and "shapes compiled: " in said and len(done.stdout.splitlines()) == 300
