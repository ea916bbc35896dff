"""The proof of the text: prompt and token ids through transformers, as vLLM and sentence-transformers call it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxconv.errors import JaxconvError
from jaxconv.json_files import JsonObject, read_optional_object
from jaxconv.text.encoding import PairEncoder
from jaxconv.text.prompt import TEMPLATE_NAME
from jaxconv.text.tokenizer import Vocabulary
from jaxconv.text.transformers_reading import Asked, Reading, ReadingError, Rendered, is_installed, read_with_transformers

RECORD = "sentence_bert_config.json"
# What jaxconv says by its own reading where transformers is not installed.
OWN_READING = ("the rendered prompts", "the token ids", "the padding of batches", "the prompt of CrossEncoder")


@dataclass(frozen=True, slots=True)
class TextCheck:
    """What was found out about prompts and token ids.

    Attributes:
        findings: What is wrong, a sentence each.
        independent: Whether transformers was asked.
        own_reading: What rests on jaxconv's own reading alone.
        class_name: The tokenizer class that transformers took.
    """

    findings: tuple[str, ...]
    independent: bool
    own_reading: tuple[str, ...]
    class_name: str | None = None


def check_text(assets: Path, folder: Path, pairs: Sequence[tuple[str, str]]) -> TextCheck:
    """Checks prompts and token ids of an output.

    The output's templates are rendered and tokenised by AutoTokenizer and apply_chat_template of the output, as vLLM
    (special tokens added to the text) and as CrossEncoder (none added) call them, one by one and in a padded batch; they
    must be equal to each other, to the tokenizer of the source and to jaxconv's own reading.

    Args:
        assets: The directory of the source's config and tokenizer.
        folder: The output.
        pairs: The (query, document) pairs.

    Returns:
        What was found. A file that cannot be read is a finding.
    """
    try:
        stored = (folder / TEMPLATE_NAME).read_text("utf-8")
        vocabulary = Vocabulary(folder)
        encoder = PairEncoder(stored, vocabulary, max_length=2**62)
        texts = [encoder.render(*pair) for pair in pairs]
        ids = [vocabulary.ids(text) for text in texts]
        record = read_optional_object(folder / RECORD)
    except (JaxconvError, OSError, UnicodeDecodeError) as error:
        return TextCheck((f"prompts cannot be made: {error}",), False, OWN_READING)
    if not is_installed():
        return TextCheck((), False, OWN_READING)
    findings: list[str] = []
    named = _named_template(record)
    if record is not None and named is None:
        findings.append(f"{RECORD} names no chat template, so CrossEncoder would render another prompt.")
    as_vllm = Asked(stored, tuple(pairs))
    as_encoder = [Asked(named, tuple(pairs), special=False, add_generation_prompt=True)] if named is not None else []
    made, source = read_with_transformers([(folder, [as_vllm, *as_encoder]), (assets, [as_vllm])])
    if isinstance(made, ReadingError):
        findings.append(f"transformers cannot use the output's tokenizer and templates: {made}.")
        return TextCheck(tuple(findings), True, ())
    for who, rendered in zip(("vLLM", "CrossEncoder"), made.rendered, strict=False):
        findings += _against_own(who, rendered, texts if who == "vLLM" else None, ids)
        findings += _batches(who, rendered)
    findings += _padding(folder, made)
    findings += _against_source(source, ids)
    return TextCheck(tuple(findings), True, (), made.class_name)


def _named_template(record: JsonObject | None) -> str | None:
    """The name of the template that CrossEncoder renders, or None where its record has none."""
    kwargs = (record or {}).get("processing_kwargs")
    settings = kwargs.get("chat_template") if isinstance(kwargs, dict) else None
    name = settings.get("chat_template") if isinstance(settings, dict) else None
    return name if isinstance(name, str) else None


def _against_own(who: str, rendered: Rendered, texts: Sequence[str] | None, ids: Sequence[Sequence[int]]) -> Iterator[str]:
    """What transformers renders and tokenises against jaxconv's own reading; the first difference of each kind."""
    if texts is not None:
        for own, text in zip(texts, rendered.texts, strict=True):
            if own != text:
                yield f"{who} renders another prompt than jaxconv: {_apart(text, own)}."
                break
    for own_ids, theirs in zip(ids, rendered.ids, strict=True):
        if list(theirs) != list(own_ids):
            place = next((i for i, (a, b) in enumerate(zip(theirs, own_ids, strict=False)) if a != b), len(theirs))
            there, here = list(theirs[place : place + 4]), list(own_ids[place : place + 4])
            yield (
                f"{who} is given other token ids than jaxconv makes, from token {place} on: "
                f"{there} of {len(theirs)} there, {here} of {len(own_ids)} here."
            )
            break


def _apart(theirs: str, own: str) -> str:
    place = next((i for i, (a, b) in enumerate(zip(theirs, own, strict=False)) if a != b), min(len(theirs), len(own)))
    return f"{theirs[place : place + 40]!r} there, {own[place : place + 40]!r} here, at character {place}"


def _batches(who: str, rendered: Rendered) -> Iterator[str]:
    """Whether a padded batch holds each prompt, and ends it where transformers looks for its last token."""
    for row, ids, last in zip(rendered.batch, rendered.ids, rendered.last, strict=False):
        held = ids in (row[: len(ids)], row[len(row) - len(ids) :])
        if not held or last < 0 or row[last] != ids[-1] or last not in (len(ids) - 1, len(row) - 1):
            yield f"in a padded batch {who} reads the score at token {last} of a prompt of {len(ids)} tokens."
            return


def _padding(folder: Path, made: Reading) -> Iterator[str]:
    """Whether config.json names the token that the tokenizer pads with."""
    recorded = (read_optional_object(folder / "config.json") or {}).get("pad_token_id")
    if made.pad_token_id is None:
        if recorded is not None:
            yield f"config.json has pad_token_id {recorded}, and the tokenizer has no pad token in transformers."
    elif recorded != made.pad_token_id:
        yield f"config.json has pad_token_id {recorded}; the tokenizer pads with {made.pad_token_id} in transformers."


def _against_source(source: Reading | ReadingError, ids: Sequence[Sequence[int]]) -> Iterator[str]:
    """The source's own tokenizer on the same prompts."""
    if isinstance(source, ReadingError):
        yield f"transformers cannot use the source's tokenizer: {source}."
    elif [list(theirs) for theirs in source.rendered[0].ids] != [list(own) for own in ids]:
        yield "the source's tokenizer gives other token ids than the output's in transformers."
