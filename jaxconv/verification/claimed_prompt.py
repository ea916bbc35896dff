"""The prompt that an output must have: that of the template which the caller, its record, its preset or its source names.

It is rendered from that template as it stands, with its own variables, and never through the lines that the conversion puts
before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxconv.errors import JaxconvError, UsageError
from jaxconv.json_files import JsonObject, read_optional_object
from jaxconv.presets import get
from jaxconv.presets.recorded_prompt import logit_score
from jaxconv.sources import Source
from jaxconv.sources.assets import read_copied
from jaxconv.text.chat_environment import RenderingError, render_variables, undeclared_variables
from jaxconv.text.chat_templates import DEFAULT, chat_templates
from jaxconv.text.prompt import variables_of

PLAIN = "{{ query }}{{ document }}"


@dataclass(frozen=True, slots=True)
class ClaimedPrompt:
    """A template and what it is rendered with.

    Attributes:
        origin: What the template is called in a finding.
        template: Its text, over messages or over query, document and instruction.
        instruction: The default of the variable `instruction`.
        settings: Further variables, which sentence-transformers hands to the source's chat template.
        system: The message of the role "system" that sentence-transformers puts first.
        structured: Whether the contents of messages are lists of parts.
    """

    origin: str
    template: str
    instruction: str | None = None
    settings: JsonObject = field(default_factory=dict)
    system: str | None = None
    structured: bool = False

    def render(self, query: str, document: str, special_tokens: Mapping[str, str]) -> str:
        """The prompt of a pair.

        Args:
            query: The query.
            document: The document.
            special_tokens: The special tokens of the tokenizer by name.

        Raises:
            RenderingError: The template cannot be rendered.
        """
        if "messages" not in undeclared_variables(self.template)[0]:
            pair: dict[str, object] = {**special_tokens, "query": query, "document": document}
            return render_variables(
                self.template, pair if self.instruction is None else {**pair, "instruction": self.instruction}
            )
        variables = variables_of(query, document, self.instruction, special_tokens)
        messages = [("query", query), ("document", document)]
        if self.system is not None:
            messages.insert(0, ("system", self.system))
        content = [[{"type": "text", "text": text}] if self.structured else text for _, text in messages]
        variables["messages"] = [{"role": role, "content": part} for (role, _), part in zip(messages, content, strict=True)]
        return render_variables(self.template, {**variables, **self.settings})


def claimed_prompt(
    template: str | None, preset: str | None, record: JsonObject, source: Source, findings: list[str]
) -> ClaimedPrompt | None:
    """The prompt that an output must have; None where nobody says which.

    Args:
        template: The text of the template that the caller names.
        preset: The name of the preset that the caller names.
        record: The output's jaxconv.json.
        source: The source.
        findings: Takes a sentence where the record cannot be followed.
    """
    if template is not None:
        return ClaimedPrompt("the template that was named", template)
    if preset is not None:
        return _of_preset(preset)
    recorded = record.get("prompt")
    if not isinstance(recorded, dict):
        return None
    try:
        return _recorded(recorded, record, source)
    except JaxconvError as error:
        findings.append(f"the prompt that jaxconv.json records cannot be made: {error}")
        return None


def _recorded(recorded: JsonObject, record: JsonObject, source: Source) -> ClaimedPrompt | None:
    origin, text = recorded.get("origin"), recorded.get("template")
    if origin == "--template" and isinstance(text, str):
        return ClaimedPrompt("the template that jaxconv.json records", text)
    if origin == "preset":
        return _of_preset(str(record.get("preset")))
    if origin == "source":
        return _of_source(source)
    if origin == "plain":
        saved = _of_source(source)
        return saved if saved is not None and _holds_pair(saved) else ClaimedPrompt("the plain pair", PLAIN)
    raise UsageError(f"its origin is {origin!r}; expected --template, preset, source or plain.")


def _holds_pair(prompt: ClaimedPrompt) -> bool:
    """Whether a chat template takes in both roles; one that does not is not the prompt of a reranker."""
    query, document = "jaxconv-query", "jaxconv-document"
    try:
        text = prompt.render(query, document, {})
    except RenderingError:
        return False
    return query in text and document in text


def _of_preset(name: str) -> ClaimedPrompt | None:
    preset = get(name)
    if preset.template is None:
        return None
    # The presets' texts have lost the newline that a file ends with, and Jinja takes one away.
    return ClaimedPrompt(f"the template of preset {name}", preset.template + "\n", preset.instruction)


def _of_source(source: Source) -> ClaimedPrompt | None:
    """The chat template that CrossEncoder renders, read from the files that sentence-transformers saved with a LogitScore."""
    transformer = read_optional_object(source.assets / "sentence_bert_config.json") or {}
    modalities = transformer.get("modality_config")
    if logit_score(source) is None or (isinstance(modalities, dict) and "message" not in modalities):
        return None  # or it joins the texts without a template
    prompts = read_optional_object(source.assets / "config_sentence_transformers.json") or {}
    recorded = _at(transformer, "processing_kwargs", "chat_template")
    settings = dict(recorded) if isinstance(recorded, dict) else {}
    name = settings.pop("chat_template", None)
    system = _at(prompts, "prompts", str(prompts.get("default_prompt_name")))
    text = chat_templates(read_copied(source.assets)).get(DEFAULT if name is None else str(name))
    if text is None:
        return None
    return ClaimedPrompt(
        "the source's own chat template",
        text,
        settings=settings,
        system=system if isinstance(system, str) and system else None,
        structured=_at(transformer, "modality_config", "message", "format") == "structured",
    )


def _at(document: object, *keys: str) -> object:
    """What lies under the keys, or None."""
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document
