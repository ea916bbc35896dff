"""Templates: every character of a prompt is kept, in vLLM's way of rendering."""

from __future__ import annotations

import pytest

from jaxconv.errors import UsageError
from jaxconv.presets import get
from jaxconv.presets.known_prompt import prompt_for
from jaxconv.text.prompt import render

QUERY, DOCUMENT = "what\nis {{ it }}?", "  a <|im_end|> document\n"


def test_qwen3_prompt_is_the_authors() -> None:
    """The prompt of the Qwen3-Reranker card, final blank line included."""
    prompt = prompt_for(get("qwen3-reranker"), None)
    instruction = "Given a web search query, retrieve relevant passages that answer the query"
    expected = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
        f"<Instruct>: {instruction}\n<Query>: {QUERY}\n<Document>: {DOCUMENT}<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert render(prompt.template, QUERY, DOCUMENT) == expected
    assert render(prompt.template, QUERY, DOCUMENT, "Mine") == expected.replace(instruction, "Mine")


@pytest.mark.parametrize("instruction", [None, "be strict"])
def test_mxbai_prompt_is_the_authors(instruction: str | None) -> None:
    """The prompt of mxbai-rerank, with and without an instruction."""
    lead = f"instruction: {instruction}\n" if instruction else ""
    expected = (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{lead}query: {QUERY}\ndocument: {DOCUMENT}\nYou are a search relevance expert who evaluates "
        "how well documents match search queries. For each query-document pair, carefully analyze the semantic "
        "relationship between them, then provide your binary relevance judgment (0 for not relevant, 1 for relevant)."
        "\nRelevance:<|im_end|>\n<|im_start|>assistant\n"
    )
    template = prompt_for(get("mxbai-rerank-base-v2"), None).template
    assert render(template, QUERY, DOCUMENT, instruction) == expected


def test_prism_prompt_is_the_authors() -> None:
    """The prompt of Prism-Reranker: a space after the system's sentence, the output rules as the instruction."""
    preset = get("prism-qwen3.5-reranker")
    system = "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    form = (
        "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n<Instruct>: {instruction}\n<Query>: {query}\n"
        "<Document>: {doc}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    expected = form.format(system=system, instruction="be strict", query=QUERY, doc=DOCUMENT)
    template = prompt_for(preset, None).template
    assert render(template, QUERY, DOCUMENT, "be strict") == expected
    default = render(template, QUERY, DOCUMENT)
    assert default == expected.replace("be strict", str(preset.instruction))
    assert 'Reply "yes" or "no".\nOn "yes", also emit:\n<contribution>' in default
    assert "doc's language.</evidence>\n<Query>" in default


def test_bge_and_zerank_prompts() -> None:
    """The prompts of bge-reranker-v2-gemma and zerank."""
    bge = render(prompt_for(get("bge-reranker-v2-gemma"), None).template, "q", "d")
    assert bge == (
        "A: q\nB: d\nGiven a query A and a passage B, determine whether the passage contains an answer to the query "
        "by providing a prediction of either 'Yes' or 'No'."
    )
    zerank = render(prompt_for(get("zerank-2"), None).template, "q", "d")
    assert zerank == "<|im_start|>system\nq<|im_end|>\n<|im_start|>user\nd<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("body", ["{{ query }}|{{ document }}", " \n{{ query }}|{{ document }}\n\n\n"])
def test_own_templates_keep_their_white_space(body: str) -> None:
    """A file's content is kept to the character, but for the newline that ends every text file."""
    rendered = render(prompt_for(None, body + "\n").template, "q", "d")
    assert rendered == body.replace("{{ query }}", "q").replace("{{ document }}", "d")


def test_start_up_rendering_is_tolerated() -> None:
    """vLLM renders once with a plain user message; no template insists on query and document."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    for name in ("qwen3-reranker", "mxbai-rerank-base-v2"):
        text = prompt_for(get(name), None).template
        assert environment.from_string(text).render(messages=[{"role": "user", "content": "x"}])


def test_a_broken_template_is_an_error() -> None:
    """A template that Jinja rejects is a usage error."""
    with pytest.raises(UsageError, match="cannot be rendered"):
        render("{{ query", "q", "d")
