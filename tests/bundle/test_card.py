"""The commands of a generated model card, extracted and run as pasted."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import jaxconv
from jaxconv.bundle.card import code_span, serve_command
from tests.support.tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def output(qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted tiny model whose source states a licence."""
    folder = tmp_path_factory.mktemp("card")
    source = folder / "source"
    source.mkdir()
    for path in qwen3.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    (source / "README.md").write_text("---\nlicense: mit\ntags:\n- x\n---\n# license: no\n")
    template = folder / "template.jinja"
    template.write_text("Query: {{ query }}\nDocument: {{ document }}\nRelevant:\n")
    jaxconv.convert(source, folder / "output", classifier_from_tokens=["no", "yes"], template=template)
    return folder / "output"


def _run(command: list[str], folder: Path) -> float:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stderr
    return float(re.findall(r"-?\d+\.\d+(?:e-?\d+)?", done.stdout)[0])


@pytest.mark.slow
def test_every_block_runs_as_pasted(output: Path) -> None:
    """CrossEncoder, transformers and `jaxconv score` print the same score; the server's blocks are served ones."""
    blocks = re.findall(r"```(\w+)\n(.*?)```", (output / "README.md").read_text(), re.DOTALL)
    local = [(kind, text) for kind, text in blocks if not text.startswith(("vllm serve", "curl"))]
    assert len(local) == 3 and len(blocks) == 6
    scores = [
        _run([sys.executable, "-c", text] if kind == "python" else ["bash", "-c", text], output) for kind, text in local
    ]
    scorer = jaxconv.load(output)
    expected = scorer.score("what is the capital of France?", ["Paris is the capital of France."])[0]
    assert scores == pytest.approx([expected] * 3, abs=5e-3)  # the Python blocks run in the model's bfloat16


def test_header(output: Path) -> None:
    """The hub's header names library, task and the source's licence."""
    header = (output / "README.md").read_text().split("---\n")[1]
    assert header == "library_name: transformers\npipeline_tag: text-ranking\nlicense: mit\n"


def test_a_family_that_transformers_cannot_load(tmp_path: Path) -> None:
    """Granite has no class there: no sentence-transformers files, no block that would fail, and the reason."""
    source, output = tiny_checkpoint(tmp_path / "source", "granite"), tmp_path / "output"
    jaxconv.convert(source, output, classifier_from_tokens=["no", "yes"], backend="numpy")
    text = (output / "README.md").read_text()
    assert "no class `GraniteForSequenceClassification`" in text
    assert "```python" not in text and "jaxconv score ." in text and "vllm serve ." in text
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        assert not (output / name).exists()
    assert not (output / "additional_chat_templates").exists()


def test_float32_is_served_as_float32(qwen3: Path, tmp_path: Path) -> None:
    """vLLM runs a float32 checkpoint in float16 unless told otherwise: the card tells it, and only for float32."""
    for dtype, flag in (("float32", True), ("bfloat16", False)):
        output = tmp_path / dtype
        jaxconv.convert(qwen3, output, classifier_from_tokens=["no", "yes"], dtype=dtype, backend="numpy")
        assert ("vllm serve . --runner pooling --dtype float32 " in (output / "README.md").read_text()) is flag


def test_several_labels_have_no_score_command(qwen3: Path, tmp_path: Path) -> None:
    """`jaxconv score`, `/score` and `/rerank` take one label: the card of three has none of them, but `/classify`."""
    output = tmp_path / "output"
    jaxconv.convert(qwen3, output, classifier_from_tokens=["no", "yes", "No"], method="no_post_processing", backend="numpy")
    text = (output / "README.md").read_text()
    assert "jaxconv score" not in text and "CrossEncoder" in text
    assert "8000/classify" in text and "8000/score" not in text and "8000/rerank" not in text


def test_what_vllm_0_33_does_with_the_saved_template(qwen3: Path, untied: Path, tmp_path: Path) -> None:
    """Without special tokens it needs no flag; with BOS the card names it and says that vLLM refuses."""
    for source, said in ((qwen3, "needs no `--chat-template`"), (untied, "This tokenizer adds `<s>`")):
        output = tmp_path / source.parent.name
        jaxconv.convert(source, output, classifier_from_tokens=["no", "yes"], backend="numpy")
        assert said in (output / "README.md").read_text()


def test_the_card_escapes_what_strangers_wrote(qwen3: Path, tmp_path: Path) -> None:
    """A multi-line licence stays YAML, and a directory with spaces is one word of the serve command."""
    source = tmp_path / "source"
    shutil.copytree(qwen3, source)
    header = "---\nlicense: other\nlicense_name: |\n  my\n  licence\nlicense_link: '# not a comment'\n---\n"
    (source / "README.md").write_text(header, encoding="utf-8")
    output = tmp_path / "out put"
    result = jaxconv.convert(source, output, classifier_from_tokens=["no", "yes"], backend="numpy")
    card = (output / "README.md").read_text("utf-8")
    parsed = yaml.safe_load(card.split("---\n")[1])
    assert (parsed["license"], parsed["license_name"], parsed["license_link"]) == (
        "other",
        "my\nlicence\n",
        "# not a comment",
    )
    command = shlex.split(serve_command(result.plan, str(output)))
    assert command[2] == str(output) and command[-1] == f"{output}/score_template.jinja"


@pytest.mark.parametrize(("text", "span"), [("yes", "`yes`"), ("a`b", "``a`b``"), ("`", "`` ` ``"), ("a\nb", "`a\\nb`")])
def test_token_texts_are_code_spans(text: str, span: str) -> None:
    """Backticks and control characters of a token cannot leave its code span."""
    assert code_span(text) == span
