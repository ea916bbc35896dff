"""Templates as people have them: over messages or over a pair, with special tokens by name, with a byte order mark."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Template
from tokenizers import processors
from transformers import AutoTokenizer

import jaxconv
from jaxconv.errors import JaxconvError, RefusedError, UsageError
from tests.support.text_cases import (
    LLAMA,
    PAIRS,
    PROMPT,
    byte_level,
    chat_ids,
    check_scores,
    converted,
    messages_of,
    plain_prompt_ids,
    template_file,
    text_source,
)

ROLE = "{{{{ messages | selectattr('role', 'eq', '{}') | map(attribute='content') | first }}}}"
QUERY, DOCUMENT = ROLE.format("query"), ROLE.format("document")
CHAT = f"<|im_start|>user\n<Query>: {QUERY}\n<Document>: {DOCUMENT}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>"
LOOP = (
    "{%- for message in messages %}\n    {%- if message.role == 'query' %}\nQ: {{ message.content }}\n"
    "    {%- else %}\nD: {{ message['content'] }}\n    {%- endif %}\n{%- endfor %}\n"
)
OVER_MESSAGES = {
    "no newline at the end": CHAT,
    "one newline": CHAT + "\n",
    "two newlines": CHAT + "\n\n",
    "three newlines": CHAT + "\n\n\n",
    "a loop that ends in a block": LOOP,
    "a block, then two newlines": LOOP + "\n",
    "an indented block first": "  {% if messages %}\n" + CHAT + "\n  {% endif %}\n\n",
    "by position": "{{ messages[0].content }}|{{ messages[-1].content }}\nanswer:\n\n",
    "marked for training": CHAT + "{% generation %}\n\n{% endgeneration %}\n\n",
    "as JSON": "{{ messages | tojson(indent=2) }}\n\n",
    "carriage returns": (CHAT + "\n\n\n").replace("\n", "\r\n"),
    "a generation prompt": CHAT + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}\n",
}


@pytest.mark.parametrize("name", OVER_MESSAGES)
def test_a_template_over_messages_renders_as_in_transformers(name: str, tmp_path: Path) -> None:
    """Character for character as apply_chat_template renders the same file, so all scores are the causal LM's."""
    text = OVER_MESSAGES[name]
    source = text_source(tmp_path / "source")
    case = converted(source, tmp_path / "out", template_file(tmp_path, text))
    tokenizer = AutoTokenizer.from_pretrained(source)
    stored = (case.output / "score_template.jinja").read_text()
    for pair in PAIRS:
        rendered = [
            tokenizer.apply_chat_template(messages_of(*pair), chat_template=t, tokenize=False) for t in (text, stored)
        ]
        assert rendered[0] == rendered[1]
    check_scores(case, chat_ids(source, text), backend="jax" if name == "three newlines" else "torch")


def test_a_template_that_asks_for_a_generation_prompt_is_said(tmp_path: Path) -> None:
    """vLLM renders a score without one, sentence-transformers with: it is stored so that both do without."""
    template = template_file(tmp_path, OVER_MESSAGES["a generation prompt"])
    described = jaxconv.inspect(text_source(tmp_path / "source"), classifier_from_tokens=["no", "yes"], template=template)
    assert "add_generation_prompt, which vLLM does not set" in " ".join(described["warnings"])


OVER_A_PAIR = {
    "text": ("Query: {{ query }}\nDocument: {{ document }}", "Query: {q}\nDocument: {d}"),
    "newlines": ("{{ query }}\n{{ document }}\n\n\n", "{q}\n{d}\n\n"),
    "a block at the end": ("{{ query }}|{{ document }}{% if true %}:{% endif %}\n\n", "{q}|{d}:"),
    "a comment at the end": ("{{ query }}|{{ document }}{# the end #}\n\n\n", "{q}|{d}\n"),
    "an indented block first": ("  {% if query %}\n  {{ query }}\n  {% endif %}\n{{ document }}:\n", "  {q}\n{d}:"),
    "white space first": (" \n{{ query }}|{{ document }}.\n", " \n{q}|{d}."),
    "the word messages": ("Which of these messages is relevant?\n{{ query }}\n{{ document }}:", None),
    "messages in a string": ("{{ 'messages' }} {{ query }} {{ document }}:", "messages {q} {d}:"),
    "a macro": ("{% macro m(x) %}[{{ x }}|{{ query }}]{% endmacro %}{{ m(document) }}\n\n", "[{d}|{q}]\n"),
    "an optional variable": ("{{ query }} {{ document }}{% if task is defined %}{{ task }}{% endif %}.", "{q} {d}."),
}


@pytest.mark.parametrize("name", OVER_A_PAIR)
def test_a_template_over_a_pair_keeps_every_character(name: str, tmp_path: Path) -> None:
    """It renders as Jinja renders the file with the variables query and document."""
    text, expected = OVER_A_PAIR[name]
    plan = jaxconv.convert(
        text_source(tmp_path / "source"), tmp_path / "out", classifier_from_tokens=["no", "yes"], backend="numpy",
        template=template_file(tmp_path, text), dry_run=True,
    ).plan  # fmt: skip
    expected = expected or text.replace("{{ query }}", "{q}").replace("{{ document }}", "{d}")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "source")
    for query, document in PAIRS:
        chat = messages_of(query, document)
        rendered = tokenizer.apply_chat_template(chat, chat_template=plan.prompt.template, tokenize=False)
        if name != "an indented block first" or query:
            assert rendered == expected.replace("{q}", query).replace("{d}", document)


NAMED = {
    "the last token": "Query: {{ query }}\nDocument: {{ document }}{{ eos_token }}\n<|assistant|>\n\n",
    "the first token": "{{ bos_token }}Query: {{ query }}\nDocument: {{ document }}:",
    "several": "{{ unk_token }}{{ query }}{{ eos_token }}{{ document }}{{ pad_token }}:\n\n",
    "over messages": "{{ bos_token }}" + CHAT + "{{ eos_token }}\n\n\n",
    "an exception never raised": "{% if query is number %}{{ raise_exception(0) }}{% endif %}{{ query }}{{ document }}:",
    "loop controls": (
        "{% for m in messages %}{{ m.content }}{{ eos_token }}{% if loop.index == 2 %}{% break %}{% endif %}{% endfor %}\n\n"
    ),
    "JSON": "{{ {'é<': query, 'd': document} | tojson }}{{ eos_token }}.",
    "the year": "{{ strftime_now('%Y') }} {{ query }} {{ document }}:",
    "a namespace": "{% set ns = namespace(x=eos_token) %}{{ dict(a=1).a }}{{ query }}{{ ns.x }}{{ document }}:",
}
VALUES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


@pytest.mark.parametrize("name", NAMED)
def test_what_transformers_hands_to_a_template_is_handed_in(name: str, tmp_path: Path) -> None:
    """Special tokens by name, raise_exception, strftime_now, tojson, loop controls: as apply_chat_template has them."""
    text = NAMED[name]
    source = text_source(tmp_path / "source", settings={**LLAMA, "unk_token": "<unk>"}, kind="llama")
    case = converted(source, tmp_path / "out", template_file(tmp_path, text))
    if "messages" in text:
        wanted = chat_ids(source, text)
    else:
        preamble = "{%- set query = messages[0].content %}\n{%- set document = messages[1].content %}\n"
        wanted = chat_ids(source, preamble + text)
    check_scores(case, wanted)
    if name == "the year":
        assert (
            jaxconv.load(case.output, backend="torch").encoder.texts.render("q", "d") == f"{datetime.date.today().year} q d:"
        )


WRONG = {
    "Python's braces": ("Query: {query}\nDocument: {document}\n", r"without the query and the document.*\{\{ query \}\}"),
    "other names": ("{{ q }} {{ passage }}", r"reads `passage`, `q`, which nobody sets; expected `query`, `document`"),
    "the model's own chat template": (
        "{%- for message in messages %}{%- if message.role == 'user' %}{{- message.content }}{%- endif %}{%- endfor %}",
        'without the query and the document.*roles are "query" and "document"',
    ),
    "no document": ("Query: {{ query }}\n", "without the document"),
    "no query": ("{{ document }} relevant?", "without the query"),
    "a comment": ("{{ query }}{# {{ document }} #}", "without the document"),
    "a string": ("{{ query }}{{ '{{ document }}' }}", "without the document"),
    "the query twice": ("{{ messages[0].content }} {{ messages[0].content }}", "without the document"),
    "the lengths": ("{{ query | length }} {{ document | length }}", "without the query and the document"),
    "capitals": ("{{ Query }} {{ Document }}", "reads `Document`, `Query`"),
    "a condition on an instruction": ("{{ query }}{% if instruction %}{{ document }}{% endif %}", "without the document"),
    "parts of messages": ("{{ messages[0].content[0].text }} {{ messages[1].content[0].text }}", "without the query and"),
    "a token that the tokenizer has not": ("{{ sep_token }}{{ query }} {{ document }}", "reads `sep_token`"),
    "the first letters": ("{{ query[:3] }} {{ document[:3] }}", "without the query and the document"),
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3."""
    return text_source(tmp_path_factory.mktemp("templates") / "source", kind="llama")


@pytest.mark.parametrize("name", WRONG)
def test_a_template_that_leaves_the_pair_out_is_refused(name: str, source: Path, tmp_path: Path) -> None:
    """By convert, and by inspect as a refusal; the message names the variables."""
    text, message = WRONG[name]
    template = template_file(tmp_path, text)
    with pytest.raises(RefusedError, match=message):
        converted(source, tmp_path / "out", template)
    assert not (tmp_path / "out").exists()
    described = jaxconv.inspect(source, classifier_from_tokens=["no", "yes"], template=template)
    assert not described["convertible"] and "prompt" not in described and len(described["refusals"]) == 1


BROKEN = {
    "a division by zero": ("{{ 1/0 }}", "division by zero"),
    "an include": ("{% include 'x' %}", "no loader"),
    "a syntax error": ("{{ query", "unexpected end of template"),
    "an unknown filter": ("{{ query | frobnicate }}", "No filter named"),
    "a huge range": ("{% for i in range(10**10) %}x{% endfor %}", "Range too big"),
    "a huge number of loops": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "more than 2 seconds",
    ),
    "a huge width": ("{{ '%1000000000d' % 1 }}", "memory|1024 MiB"),
    "a huge text": ("{% for i in range(99999) %}{{ query }}{{ document }}{% endfor %}", "more than .* characters"),
    "a recursion": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    "deep nesting": ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "recursion"),
    "an exception": ("{{ raise_exception('never') }}", "never"),
    "Python's inside": ("{{ query.__class__.__mro__[1] }}{{ document }}", "undefined|unsafe"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_template_that_fails_is_an_error_with_a_reason(name: str, source: Path, tmp_path: Path) -> None:
    """Every failure of a template is a usage error, within seconds."""
    text, message = BROKEN[name]
    template, started = template_file(tmp_path, text), time.monotonic()
    for call in (jaxconv.inspect, lambda path, **options: jaxconv.convert(path, tmp_path / "out", **options)):
        with pytest.raises(UsageError, match=message):
            call(source, classifier_from_tokens=["no", "yes"], template=template)
    assert time.monotonic() - started < 60


MENTIONED = {
    "in the text": "Which of these messages is relevant?\nQuery: {{ query }}\nDocument: {{ document }}\nRelevant:",
    "in a comment": "{# of messages #}{{ query }}\n{{ document }}:",
    "in a string": "{{ 'messages' }} {{ query }} {{ document }}:",
    "in raw text": "{% raw %}{{ messages }}{% endraw %} {{ query }} {{ document }}:",
    "as an attribute": "{{ query }} {{ document }}{% if {'messages': 1}.messages %}:{% endif %}",
    "as a name that it sets": "{% set messages = 'no' %}{{ messages }} {{ query }} {{ document }}:",
}


@pytest.mark.parametrize("name", MENTIONED)
def test_a_template_that_mentions_messages_scores_as_the_causal_lm(name: str, source: Path, tmp_path: Path) -> None:
    """The word alone does not make a chat template of it; every consumer gives the causal LM's scores."""
    case = converted(source, tmp_path / "out", template_file(tmp_path, MENTIONED[name]))
    tokenizer = AutoTokenizer.from_pretrained(source)

    def prompt_ids(query: str, document: str) -> list[int]:
        return list(tokenizer(Template(MENTIONED[name]).render(query=query, document=document))["input_ids"])

    check_scores(case, prompt_ids)


def test_a_template_that_fails_without_its_roles_gets_a_note(source: Path, tmp_path: Path) -> None:
    """It converts and scores; a template that does without the roles has no such note."""
    insists = (
        "{% if messages[0].role != 'query' %}{{ raise_exception('no query') }}{% endif %}"
        "{{ messages[0].content }} {{ messages[-1].content }}:"
    )
    notes = converted(source, tmp_path / "out", template_file(tmp_path, insists)).result.plan.warnings
    assert any("logs that as a warning with a traceback" in note and "no query" in note for note in notes)
    quiet = insists.partition("{% endif %}")[2]
    notes = converted(source, tmp_path / "quiet", template_file(tmp_path, quiet)).result.plan.warnings
    assert not any("traceback" in note for note in notes)


MARKED = {
    "over a pair": PROMPT.encode("utf-8-sig"),
    "over messages": (CHAT + "\n\n").encode("utf-8-sig"),
    "with carriage returns": PROMPT.replace("\n", "\r\n").encode("utf-8-sig"),
    "other scripts": ("où 日本 " + PROMPT).encode("utf-8-sig"),
    "a loop": LOOP.encode("utf-8-sig"),
    "a comment first": ("{# of pairs #}" + PROMPT).encode("utf-8-sig"),
}


@pytest.mark.parametrize("name", MARKED)
def test_a_byte_order_mark_is_no_part_of_the_prompt(name: str, tmp_path: Path) -> None:
    """The prompt is that of the same file without the mark."""
    source = text_source(tmp_path / "source")
    case = converted(source, tmp_path / "out", template_file(tmp_path, MARKED[name]))
    text = MARKED[name].decode("utf-8-sig").replace("\r\n", "\n")
    wanted = (
        chat_ids(source, text)
        if "messages" in text
        else plain_prompt_ids(source, text.removeprefix("{# of pairs #}").removesuffix("\n"))
    )
    check_scores(case, wanted)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
def test_a_template_in_another_encoding_is_an_error(encoding: str, source: Path, tmp_path: Path) -> None:
    """It is not read as something else."""
    template = template_file(tmp_path, ("où " + PROMPT).encode(encoding))
    with pytest.raises(UsageError, match="UTF-8"):
        converted(source, tmp_path / "out", template)


def _with_bos(text: str, folder: Path, settings: dict[str, Any] | None = None) -> tuple[Path, Path]:
    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 4)])
    return text_source(folder / "source", tokenizer, settings or LLAMA, kind="llama"), template_file(folder, text)


@pytest.mark.parametrize("text", ["{{ bos_token }}" + CHAT + "\n\n", "<s>" + CHAT, "{{- bos_token -}}\n  " + LOOP])
def test_a_prompt_begins_with_one_first_token(text: str, tmp_path: Path) -> None:
    """A template that writes what the tokenizer adds anyway is stored without it, which is said."""
    source, template = _with_bos(text, tmp_path)
    case = converted(source, tmp_path / "out", template)
    assert "begins with '<s>', which the tokenizer adds anyway" in " ".join(case.result.plan.warnings)
    wanted = chat_ids(source, text, special=False)
    assert wanted("q", "d").count(4) == 1
    check_scores(case, wanted)


@pytest.mark.parametrize("name", ["UnicodeDecodeError", "missing"])
def test_a_file_that_cannot_be_read_is_an_error(name: str, source: Path, tmp_path: Path) -> None:
    """A missing file, and one that is not text."""
    template = tmp_path / "none.jinja" if name == "missing" else template_file(tmp_path, b"\xff\xfe\x00")
    with pytest.raises(JaxconvError, match="cannot be read"):
        converted(source, tmp_path / "out", template)
