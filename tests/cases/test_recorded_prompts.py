"""Sources that sentence-transformers saved with a LogitScore: their prompt is taken, as their ids are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules.logit_score import LogitScore
from transformers import AutoTokenizer

import jaxconv
import jaxconv.presets.recorded_prompt
from tests.support.text_cases import PAIRS, QWEN, byte_level, messages_of, text_source

ROLE = "{{{{ messages | selectattr('role', 'eq', '{}') | map(attribute='content') | first }}}}"
TEMPLATE = (
    f"<|im_start|>user\n<Query>: {ROLE.format('query')}\n<Document>: {ROLE.format('document')}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n\n"
)
LOOP = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ENDING = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
STRUCTURED = "{% for m in messages %}{{ m.role }}: {{ m.content[0].text }}\n{% endfor %}Answer:\n\n"
LOGITS = {"method": "forward", "method_output_name": "logits"}


def saved(folder: Path, template: Any, form: str = "flat", **sizes: int) -> Path:
    """A reranker as sentence-transformers saves it."""
    base = text_source(folder / "base", settings={**QWEN, "chat_template": template}, **sizes)
    modalities = {"text": LOGITS, "message": {**LOGITS, "format": form}}
    options: dict[str, Any] = {"model_kwargs": {"dtype": torch.float32}, "module_output_name": "causal_logits"}
    module = Transformer(str(base), transformer_task="text-generation", modality_config=modalities, **options)
    tokenizer = byte_level()
    score = LogitScore(true_token_id=tokenizer.token_to_id("yes"), false_token_id=tokenizer.token_to_id("no"))
    CrossEncoder(modules=[module, score], device="cpu").save_pretrained(str(folder / "source"))
    return folder / "source"


def edited(folder: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The folder with a JSON file changed."""
    document = json.loads((folder / name).read_text())
    change(document)
    (folder / name).write_text(json.dumps(document))
    return folder


def _kwargs(**values: Any) -> Callable[[Path], Path]:
    """Sets what sentence-transformers hands to the template."""
    return lambda folder: edited(
        folder, "sentence_bert_config.json", lambda document: document.update(processing_kwargs={"chat_template": values})
    )


def _prompted(folder: Path) -> Path:
    prompts = {"prompts": {"judge": 'Judge "well".\n'}, "default_prompt_name": "judge"}
    return edited(folder, "config_sentence_transformers.json", lambda document: document.update(prompts))


def _in_settings(folder: Path) -> Path:
    """The list of templates back in tokenizer_config.json, as older folders have it."""
    named = {path.stem: path.read_text() for path in (folder / "additional_chat_templates").iterdir()}
    for path in (folder / "additional_chat_templates").iterdir():
        path.unlink()
    named["default"] = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    entries = [{"name": name, "template": text} for name, text in named.items()]
    return edited(folder, "tokenizer_config.json", lambda document: document.update(chat_template=entries))


def _marked(folder: Path) -> Path:
    path = folder / "chat_template.jinja"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    return folder


LIST = [{"name": "default", "template": "{{ messages[0].content }}"}, {"name": "rerank", "template": TEMPLATE}]
RECORDED: dict[str, tuple[Any, str, Callable[[Path], Path]]] = {
    "the default template": (TEMPLATE, "flat", lambda folder: folder),
    "a named template": (LIST, "flat", _kwargs(chat_template="rerank")),
    "a list in the settings": (LIST, "flat", lambda folder: _in_settings(_kwargs(chat_template="rerank")(folder))),
    "a generation prompt": (LOOP + ENDING, "flat", _kwargs(add_generation_prompt=True)),
    "a variable": (LOOP + "{% if deep %}{{ words.a[0] }}{% endif %}:", "flat", _kwargs(deep=True, words={"a": ["x", None]})),
    "a default prompt": (LOOP + "<|im_start|>assistant\n\n", "flat", _prompted),
    "message parts": (STRUCTURED, "structured", lambda folder: folder),
    "a byte order mark, which transformers keeps": (TEMPLATE, "flat", _marked),
    "message parts and a default prompt": (STRUCTURED, "structured", _prompted),
}


@pytest.mark.parametrize("name", RECORDED)
def test_the_output_scores_as_the_saved_reranker(name: str, tmp_path: Path) -> None:
    """No flags: ids and prompt come from the record, and all consumers give CrossEncoder's scores of the source."""
    template, form, change = RECORDED[name]
    source, output = change(saved(tmp_path, template, form)), tmp_path / "out"
    options: dict[str, Any] = {"device": "cpu", "model_kwargs": {"dtype": torch.float32}}
    original = CrossEncoder(str(source), activation_fn=torch.nn.Identity(), **options)
    truth = pytest.approx(original.predict(list(PAIRS), batch_size=1).tolist(), abs=1e-4)
    result = jaxconv.convert(source, output, backend="numpy")
    assert not result.plan.warnings or "otherwise" in " ".join(result.plan.warnings)
    assert jaxconv.verify(source, output, structure_only=True).passed
    backend = "jax" if name == "the default template" else "torch"
    assert jaxconv.load(output, backend=backend).score_pairs(PAIRS, raw=True) == truth
    encoder = CrossEncoder(str(output), activation_fn=torch.nn.Identity(), **options)
    assert encoder.predict(list(PAIRS), batch_size=4).tolist() == truth
    tokenizer, stored = AutoTokenizer.from_pretrained(output), (output / "score_template.jinja").read_text()
    for pair in PAIRS:
        text = tokenizer.apply_chat_template(messages_of(*pair), chat_template=stored, tokenize=False)
        wanted = original.preprocess([pair], prompt=original._resolve_prompt(None, None))["input_ids"][0].tolist()
        assert tokenizer(text)["input_ids"] == wanted


@pytest.mark.parametrize(("name", "part"), [("a variable", "_settings"), ("a default prompt", "_system_message")])
def test_what_sentence_transformers_adds_is_proved(
    name: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversion that loses a setting or the default prompt is found by reading the source's files once more."""
    template, form, change = RECORDED[name]
    source = change(saved(tmp_path, template, form))
    monkeypatch.setattr(jaxconv.presets.recorded_prompt, part, lambda source: "")
    jaxconv.convert(source, tmp_path / "out", backend="numpy")
    findings = jaxconv.verify(source, tmp_path / "out", structure_only=True).findings
    assert any("another prompt than the source's own chat template" in finding for finding in findings), findings


def test_a_template_without_the_roles_is_left_aside(tmp_path: Path) -> None:
    """A chat template of the base model is not a prompt of pairs; that is said, and the plain pair stays."""
    chat = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    source = saved(tmp_path, TEMPLATE)
    (source / "chat_template.jinja").write_text(chat)
    plan = jaxconv.convert(source, tmp_path / "out", backend="numpy", dry_run=True).plan
    assert not plan.prompt.known
    assert "left aside" in " ".join(plan.warnings) and "no prompt template is known" in " ".join(plan.warnings)


def test_tokens_by_hand_keep_the_recorded_prompt(tmp_path: Path) -> None:
    """The prompt does not depend on where the ids come from; a --template of one's own wins."""
    source = saved(tmp_path, TEMPLATE)
    plan = jaxconv.convert(
        source, tmp_path / "out", classifier_from_tokens=["No", "Yes"], backend="numpy", dry_run=True
    ).plan  # fmt: skip
    assert plan.prompt.known and plan.prompt.template == TEMPLATE
    (tmp_path / "own.jinja").write_text("{{ query }} {{ document }}:")
    plan = jaxconv.convert(source, tmp_path / "out", template=tmp_path / "own.jinja", backend="numpy", dry_run=True).plan
    assert plan.prompt.template != TEMPLATE


@pytest.mark.parametrize("where", ["settings", "settings list", "files"])
def test_the_sources_chat_templates_survive(where: str, tmp_path: Path) -> None:
    """One, a list, or additional_chat_templates/: transformers finds all of them in the output, and ours beside them."""
    chats = {"default": "chat: {{ messages[0].content }}\n\n", "tool_use": "tools: {{ messages[0].content }}"}
    entries: Any = [{"name": name, "template": text} for name, text in chats.items()]
    files = {"chat_template.jinja": chats["default"], "additional_chat_templates/tool_use.jinja": chats["tool_use"]}
    if where == "settings":
        entries, chats = chats["default"], {"default": chats["default"]}
    settings = QWEN if where == "files" else {**QWEN, "chat_template": entries}
    source = text_source(tmp_path / "source", settings=settings, files=files if where == "files" else {})
    jaxconv.convert(source, tmp_path / "out", classifier_from_tokens=["no", "yes"], backend="numpy")
    before, after = (AutoTokenizer.from_pretrained(folder).chat_template for folder in (source, tmp_path / "out"))
    before = before if isinstance(before, dict) else {"default": before}
    assert {name: text for name, text in after.items() if name != "jaxconv_score"} == before == chats
