"""Prompts with pictures: a side as a string with marks and as a list of parts, the limits of pictures, the card."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import jaxconv
from jaxconv.json_files import read_object
from jaxconv.pictures import Picture, Side, SideEncoder
from jaxconv.presets import get
from jaxconv.presets.known_prompt import prompt_for
from jaxconv.presets.pixel_limits import pixels_to_serve
from jaxconv.text.chat_environment import render_variables
from jaxconv.text.encoding import folder_encoder
from jaxconv.text.prompt import render, variables_of
from tests.support.authors import qwen3_vl_cut, qwen3_vl_reranker
from tests.support.multimodal import composite_checkpoint, picture
from tests.support.real_checkpoints import checkpoint_of

MARK = "<|vision_start|><|image_pad|><|vision_end|>"
PRESET = get("qwen3-vl-reranker")
LONG = "a long document of many words " * 400
SIDES = {
    "empty": [], "text": ["a query"], "picture": [None], "picture and text": [None, "a caption"],
    "text and picture": ["a caption", None], "two pictures": [None, None, "of\ntwo lines"], "two texts": ["one ", "two"],
    "empty text": [""], "white space": [" "], "long": [None, LONG],
}  # fmt: skip


def parts(side: list[str | None]) -> list[dict[str, str]]:
    """A side as sentence-transformers hands it in: a part for each picture (None) and each text."""
    return [{"type": "image", "image": "x"} if entry is None else {"type": "text", "text": entry} for entry in side]


def as_string(side: list[str | None]) -> str:
    """A side as vLLM hands it in: marks first. It joins texts by newlines; the authors' joins are taken here."""
    return MARK * side.count(None) + "".join(entry for entry in side if entry is not None)


def rendered_parts(template: str, query: list[str | None], document: list[str | None]) -> str:
    """The prompt of sides that are lists."""
    variables = variables_of("", "")
    messages = [{"role": "query", "content": parts(query)}, {"role": "document", "content": parts(document)}]
    return render_variables(template, {**variables, "messages": messages})


@pytest.mark.slow
def test_ids_are_the_authors_with_pictures(tmp_path: Path) -> None:
    """0, 1 and 2 pictures in query and document, empty sides, long texts: the authors' ids, from strings and from parts."""
    source, output = checkpoint_of(PRESET, tmp_path / "source"), tmp_path / "output"
    jaxconv.convert(source, output, preset=PRESET.name, backend="numpy")
    encode = qwen3_vl_reranker(source, 10240)
    encoder = folder_encoder(output, 2**30)
    for query in SIDES.values():
        for document in SIDES.values():
            text = rendered_parts(encoder.template, query, document)
            assert text == render(encoder.template, as_string(query), as_string(document))
            assert encoder.vocabulary.ids(text) == encode(parts(query), parts(document), None), (query, document)


@pytest.mark.slow
def test_a_long_prompt_is_cut_as_the_authors_cut_it(tmp_path: Path) -> None:
    """Pictures in query and document, their tokens expanded, and every length down to the bare document's."""
    source, output = checkpoint_of(PRESET, tmp_path / "source"), tmp_path / "output"
    jaxconv.convert(source, output, preset=PRESET.name, backend="numpy")
    pictures = [Picture(f"{seed}.png", picture(40, 50, seed)) for seed in range(2)]
    config, record = read_object(output / "config.json", ""), read_object(output / "jaxconv.json", "")
    encoder = SideEncoder(folder_encoder(output, 2**30), output, config, record)
    special = set(AutoTokenizer.from_pretrained(source).all_special_ids)
    for query, document in (
        ("a query", Side(LONG, (pictures[0],))),
        (Side("like this", (pictures[0],)), LONG),
        (Side("like this", (pictures[0],)), Side(LONG, tuple(pictures))),
    ):
        encoder.texts.max_length = 2**30
        whole = encoder.encode(query, document).ids
        bare = len(encoder.encode(query, "x" if isinstance(document, str) else replace(document, text="")).ids)
        for length in (len(whole), len(whole) - 1, len(whole) - 100, (len(whole) + bare) // 2, bare + 20):
            encoder.texts.max_length = length
            ids, theirs = encoder.encode(query, document).ids, qwen3_vl_cut(whole, special, length)
            assert len(ids) <= len(theirs) == length
            assert [i for i in ids if i in special] == [i for i in theirs if i in special]
            assert ids == theirs, (length, len(ids))


def test_a_template_of_ones_own_takes_strings_and_parts() -> None:
    """The lines before a template over query and document; without a mark for pictures they are those of a text model."""
    text = "Q: {{ query }}\nD: {{ document }}\nA:"
    template = prompt_for(None, text, picture="<image>").template
    assert rendered_parts(template, ["a"], [None, "b"]) == render(template, "a", "<image>b") == "Q: a\nD: <image>b\nA:"
    assert "macro" not in prompt_for(None, text).template


@pytest.mark.parametrize(
    ("settings", "served"),
    [
        ({"size": {"shortest_edge": 65536, "longest_edge": 16777216}}, (4096, 1843200)),
        ({"size": {"shortest_edge": 4096, "longest_edge": 1843200}}, None),
        ({"min_pixels": 4096, "max_pixels": 1843200}, None),
        ({"min_pixels": 4096, "max_pixels": 1843200, "size": {"shortest_edge": 1, "longest_edge": 2}}, None),
        ({}, (4096, 1843200)),
    ],
)
def test_limits_are_told_where_the_files_have_others(settings: dict[str, Any], served: tuple[int, int] | None) -> None:
    """In preprocessor_config.json, or inside processor_config.json as transformers 5 writes it."""
    nested = {"image_processor": settings}
    for files in ({"preprocessor_config.json": settings}, {"processor_config.json": nested}):
        encoded = {name: json.dumps(content).encode() for name, content in files.items()}
        assert pixels_to_serve(PRESET, encoded) == served
    both = {"preprocessor_config.json": json.dumps(settings).encode(), "processor_config.json": b"{}"}
    assert pixels_to_serve(PRESET, both) == served
    assert pixels_to_serve(get("qwen3-reranker"), both) is None


def test_the_card_has_requests_with_a_picture(tmp_path: Path) -> None:
    """Bodies of /score and /rerank that are JSON, and no word of CrossEncoder's length."""
    source = composite_checkpoint(tmp_path / "source", "qwen3_vl")
    jaxconv.convert(source, tmp_path / "out", classifier_from_tokens=["no", "yes"], backend="numpy")
    card = (tmp_path / "out" / "README.md").read_text()
    bodies = [json.loads(body) for body in re.findall(r"-d '(.*)'$", card, re.MULTILINE)]
    pictures = [part for body in bodies for part in body["documents"] if isinstance(part, dict)]
    assert len(bodies) == 4 and len(pictures) == 2
    assert pictures[0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    (serve,) = re.findall(r"^vllm serve .*$", card, re.MULTILINE)
    assert "--mm-processor-kwargs" not in shlex.split(serve)  # no preset, so nobody says other limits


def test_the_source_s_own_template_takes_parts(tmp_path: Path) -> None:
    """Beside a LogitScore record with the message format "structured": strings become one part, lists stay."""
    source = composite_checkpoint(tmp_path / "source", "qwen3_vl")
    body = (
        "{% for message in messages %}{{ message.role }}:{% for part in message.content %}"
        "{{ '<P>' if part.type == 'image' else part.text }}{% endfor %}|{% endfor %}"
    )
    written = {
        "chat_template.jinja": body,
        "modules.json": json.dumps([{"type": "sentence_transformers.x.LogitScore"}]),
        "1_LogitScore/config.json": json.dumps({"true_token_id": 262, "false_token_id": 263}),
        "sentence_bert_config.json": json.dumps({"modality_config": {"message": {"format": "structured"}}}),
    }
    (source / "1_LogitScore").mkdir()
    for name, text in written.items():
        (source / name).write_text(text)
    jaxconv.convert(source, tmp_path / "out", backend="numpy")
    template = (tmp_path / "out" / "score_template.jinja").read_text()
    assert render(template, "a", "<P>b") == rendered_parts(template, ["a"], [None, "b"]) == "query:a|document:<P>b|"
    assert jaxconv.verify(source, tmp_path / "out", structure_only=True).passed
    assert not (tmp_path / "out" / "modules.json").exists()


@pytest.mark.parametrize(("ending", "told"), [(".", False), ("", True), ("\n", False)])
def test_gemma_3_loses_a_picture_before_one_newline(tmp_path: Path, ending: str, told: bool) -> None:
    """The trap is named for exactly one newline after {{ document }}."""
    source = composite_checkpoint(tmp_path / "source", "gemma3")
    template = tmp_path / "template.jinja"
    template.write_text("{{ query }} asks for {{ document }}" + ending + "\nRelevant:")
    plan = jaxconv.convert(source, tmp_path / "out", token_ids=[5, 6], template=template, backend="numpy").plan
    assert any("exactly one newline" in warning for warning in plan.warnings) is told


def test_a_family_that_no_server_was_run_with_is_said(tmp_path: Path) -> None:
    """Mistral 3's row lies where vLLM's code looks for it."""
    source = composite_checkpoint(tmp_path / "source", "mistral3")
    plan = jaxconv.convert(source, tmp_path / "out", token_ids=[5, 6], backend="numpy").plan
    assert any("vLLM was not run with Mistral3ForConditionalGeneration" in warning for warning in plan.warnings)
