"""A prompt fitted to the tokenizer of its source, so that every consumer reads the score at the same token.

vLLM tokenises the rendered prompt with special tokens added, sentence-transformers without; transformers finds the last
token by the pad token. What would make them differ is mended in the stored templates, or refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from jaxconv.errors import RefusedError
from jaxconv.json_files import read_optional_object
from jaxconv.text.pad_token import PadToken, choose_pad_token
from jaxconv.text.prompt import DOCUMENTS, QUERIES, Prompt, render
from jaxconv.text.special_tokens import (
    PROBES,
    check_nothing_appended,
    leave_to_tokenizer,
    special_tokens,
    with_special_tokens,
)
from jaxconv.text.tokenizer import Vocabulary
from jaxconv.text.transformers_reading import Asked, ReadingError, is_installed, read_with_transformers

# What pre-tokenizers part otherwise: numbers, contractions, white space, newlines, scripts, marks.
COMPARED_PAIRS = (
    *PROBES,
    (QUERIES[0], DOCUMENTS[0]),
    ("it's 2024: what's 3.14159 x 1,000,000?", "They'll say: 'don't!'\n\n  - one\n\t- two   three\r\nfour  "),
    ("où est-ce? Ünïcödé", "日本語のテキスト、 ελληνικά, हिन्दी 🙂 e\u0301 \u00a0x"),
    ("def f(x_1):\n    return x_1**2", "<a href=\"x\">1</a> {'a': [1, 2]} http://x.org/a?b=c&d=1"),
)


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """A prompt as it is stored.

    Attributes:
        prompt: The prompt; its template is the one that vLLM takes.
        named_template: The template for sentence-transformers, which spells out the special tokens.
        special_tokens: What the tokenizer adds before and after a prompt.
        pad_token: The pad token of the output; None if the tokenizer has no usable piece.
        warnings: What the caller should know, a sentence each.
        machine_warnings: What could not be compared with what is installed here; no part of the output.
    """

    prompt: Prompt
    named_template: str
    special_tokens: tuple[str, str]
    pad_token: PadToken | None
    warnings: tuple[str, ...]
    machine_warnings: tuple[str, ...] = ()


def fit_prompt(prompt: Prompt, vocabulary: Vocabulary, rows: int) -> FittedPrompt:
    """Fits a prompt to a tokenizer.

    Args:
        prompt: The prompt; what somebody else wrote has been checked.
        vocabulary: The tokenizer of the source.
        rows: How many tokens the model has an embedding of.

    Raises:
        RefusedError: Consumers would read the score at different tokens, the prompt has a token without an embedding or
            more tokens than the tokenizer keeps, or transformers gives other token ids than tokenizer.json.
        SourceError: The tokenizer's files are damaged.
    """
    warnings = []
    names = vocabulary.special_tokens
    check_nothing_appended(vocabulary)
    stripped = leave_to_tokenizer(prompt.template, vocabulary, names)
    if stripped is not None:
        prompt = dataclasses.replace(prompt, template=stripped)
        warnings.append(
            f"the template begins with {special_tokens(vocabulary)[0]!r}, which the tokenizer adds anyway; it was left to "
            "the tokenizer, so that a prompt has it once."
        )
    named = with_special_tokens(prompt.template, vocabulary, names)
    prompts = [vocabulary.ids(render(prompt.template, *pair, special_tokens=names)) for pair in PROBES]
    _check_length(prompts, vocabulary)
    warnings += _check_rows(prompts if prompt.known else [], vocabulary, rows)
    pad_token = choose_pad_token(vocabulary, {ids[-1] for ids in prompts if ids} if prompt.known else frozenset(), rows)
    if pad_token is None:
        warnings.append("the tokenizer has no special token that could serve as padding; transformers cannot batch prompts.")
    warnings += _stored_reading(prompt.template, vocabulary)
    machine_warnings = _check_readings(prompt.template, named, vocabulary)
    return FittedPrompt(prompt, named, special_tokens(vocabulary), pad_token, tuple(warnings), tuple(machine_warnings))


def _check_length(prompts: Sequence[Sequence[int]], vocabulary: Vocabulary) -> None:
    """Raises `RefusedError` for a prompt that a tokenizer which truncates would cut, even without query and document."""
    path = vocabulary.assets / "tokenizer_config.json"
    limit = (read_optional_object(path) or {}).get("model_max_length")
    shortest = min(map(len, prompts))
    if isinstance(limit, int | float) and shortest > limit:
        raise RefusedError(
            f"the prompt has {shortest} tokens beside query and document, and model_max_length in {path} is {limit:g}: "
            "sentence-transformers would cut off its end, where the score is read. Correct model_max_length, in a copy if "
            "others need it, or shorten the template."
        )


def _check_rows(prompts: Sequence[Sequence[int]], vocabulary: Vocabulary, rows: int) -> list[str]:
    """Raises `RefusedError` for a prompt with a token that has no embedding; warns of the tokenizer's other ones."""
    beyond = vocabulary.beyond(rows)
    if not beyond:
        return []
    for token in beyond:
        if any(token.id in ids for ids in prompts):
            raise RefusedError(
                f"the prompt holds the token {token.text!r} ({token.id}), which has no row in the model's embedding of "
                f"{rows} rows. Take it out of the template, or resize the embedding (resize_token_embeddings) and train it."
            )
    first = beyond[0]
    count = "an entry" if len(beyond) == 1 else f"{len(beyond)} entries"
    return [
        f"the tokenizer has {count} without a row in the model's embedding of {rows} rows, the first {first.text!r} "
        f"({first.id}); a text that contains one cannot be scored."
    ]


def _check_readings(template: str, named_template: str, vocabulary: Vocabulary) -> list[str]:
    """Compares tokenizer.json with transformers where it builds the tokenizer anew; what could not be compared, in sentences.

    Raises:
        RefusedError: They differ.
    """
    settings = vocabulary.settings
    if not _is_built_anew(vocabulary):
        return []
    if not is_installed():
        return [
            f"transformers builds the tokenizer class {settings.class_name} anew from tokenizer.json; it is not installed, "
            "so its token ids were not compared with jaxconv's. Run `jaxconv verify` where it is installed.",
        ]
    asked = (
        Asked(template, COMPARED_PAIRS),
        Asked(named_template, COMPARED_PAIRS, special=False, add_generation_prompt=True),
    )
    reading = read_with_transformers([(vocabulary.assets, asked)])[0]
    if isinstance(reading, ReadingError):
        return [f"transformers cannot load the tokenizer, so its token ids were not compared: {reading}."]
    for one, rendered in zip(asked, reading.rendered, strict=True):
        for text, ids in zip(rendered.texts, rendered.ids, strict=True):
            our_ids = vocabulary.ids(text, one.special)
            if our_ids != list(ids):
                raise RefusedError(_difference(text, our_ids, ids, vocabulary, reading.class_name))
    return []


def _is_built_anew(vocabulary: Vocabulary) -> bool:
    """Whether transformers does more with the tokenizer than to load tokenizer.json."""
    return not vocabulary.settings.is_plain or vocabulary.settings.splits_special_tokens


def _stored_reading(template: str, vocabulary: Vocabulary) -> list[str]:
    """Warns where tokenizer.json by itself gives other token ids than the class that transformers builds from it."""
    for pair in COMPARED_PAIRS if _is_built_anew(vocabulary) else ():
        text = render(template, *pair, special_tokens=vocabulary.special_tokens)
        if list(vocabulary.stored.encode(text, add_special_tokens=True).ids) != vocabulary.ids(text):
            return [
                f"tokenizer.json tokenises some texts differently from {vocabulary.settings.class_name}, which transformers "
                "builds from its vocabulary without its normalizer and pre_tokenizer; vLLM, sentence-transformers and "
                f"jaxconv use the class. {_for_the_file(vocabulary)}"
            ]
    return []


def _for_the_file(vocabulary: Vocabulary) -> str:
    """What to do for a model that was trained with tokenizer.json itself."""
    if vocabulary.settings.is_forced:
        return "It does so for this model_type whatever tokenizer_config.json says."
    return (
        "A model that was trained with tokenizer.json itself needs "
        '"tokenizer_class": "PreTrainedTokenizerFast" in tokenizer_config.json.'
    )


def _difference(text: str, our_ids: Sequence[int], ids: Sequence[int], vocabulary: Vocabulary, class_name: str) -> str:
    """How the readings differ, and what to do."""
    pairs = zip([*our_ids, None], [*ids, None], strict=False)
    place = next((place for place, (ours, theirs) in enumerate(pairs) if ours != theirs), 0)
    ours, theirs = ([vocabulary.piece(index) for index in ids_[place : place + 4]] for ids_ in (our_ids, ids))
    folder = str(vocabulary.assets)
    if vocabulary.settings.splits_special_tokens:
        next_step = (
            f'"split_special_tokens": true in {vocabulary.assets / "tokenizer_config.json"} makes transformers split special '
            "tokens like any other text. Remove it, in a copy if others need it."
        )
    else:
        next_step = (
            "Save the tokenizer as transformers reads it, in a copy if others need it as it is: "
            f'python -c "from transformers import AutoTokenizer as A; t = A.from_pretrained({folder!r}); '
            f't.backend_tokenizer.save({str(vocabulary.path)!r})" and name "tokenizer_class": "PreTrainedTokenizerFast" in '
            "tokenizer_config.json."
        )
    return (
        f"the installed transformers ({class_name}) and jaxconv tokenise {text[:40]!r}… differently, from token {place} on: "
        f"{theirs} there, {ours} here; expected the same. {next_step}"
    )
