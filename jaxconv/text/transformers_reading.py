"""Prompts and token ids as AutoTokenizer and apply_chat_template of the installed transformers give them.

vLLM and sentence-transformers go through these, so they are what jaxconv's own reading is held against. The work is done
in a process of its own in which torch cannot be imported, unless transformers has been imported here already. For that
this module imports nothing of jaxconv, and is also run as a script.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]  # JSON between this process and the one that imports transformers

SECONDS = 300


class ReadingError(Exception):
    """transformers cannot load a tokenizer or render a template."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is rendered and tokenised.

    Attributes:
        template: A template, or the name of one of the tokenizer's.
        pairs: The (query, document) pairs.
        special: Whether special tokens are added to the rendered text, as vLLM does; sentence-transformers does not.
        add_generation_prompt: What the template is told.
        instruction: The template's variable of that name; left out if None.
    """

    template: str
    pairs: tuple[tuple[str, str], ...]
    special: bool = True
    add_generation_prompt: bool = False
    instruction: str | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """The answer to one `Asked`.

    Attributes:
        texts: The rendered prompts.
        ids: The token ids of each, tokenised by itself.
        last: The position of each prompt's last token in a padded batch, as transformers' classifiers find it.
        batch: The row of each prompt in that batch, padding included.
    """

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    last: tuple[int, ...]
    batch: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """A tokenizer as transformers has it.

    Attributes:
        class_name: The class that AutoTokenizer took.
        special_tokens: What it hands to a chat template.
        pad_token_id: What it pads with.
        rendered: The answers, in order.
    """

    class_name: str
    special_tokens: dict[str, str]
    pad_token_id: int | None
    rendered: tuple[Rendered, ...]


def is_installed() -> bool:
    """Whether transformers can be imported here."""
    return importlib.util.find_spec("transformers") is not None


def read_with_transformers(requests: Sequence[tuple[Path, Sequence[Asked]]]) -> list[Reading | ReadingError]:
    """Renders and tokenises with transformers.

    Args:
        requests: Directories of tokenizers, with their config.json, and what is rendered and tokenised with each.

    Returns:
        Of each request the tokenizer and its answers, or why there are none.
    """
    questions = [{"directory": str(directory), "asked": [asdict(one) for one in asked]} for directory, asked in requests]
    answers = [_answer(one) for one in questions] if "transformers" in sys.modules else _in_a_process(questions)
    return [_reading(answer) for answer in answers]


def _reading(answer: Message) -> Reading | ReadingError:
    if "error" in answer:
        return ReadingError(str(answer["error"]))
    rendered = [
        Rendered(tuple(one["texts"]), tuple(map(tuple, one["ids"])), tuple(one["last"]), tuple(map(tuple, one["batch"])))
        for one in answer["rendered"]
    ]
    return Reading(answer["class_name"], answer["special_tokens"], answer["pad_token_id"], tuple(rendered))


def _in_a_process(requests: list[Message]) -> list[Message]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-P", str(Path(__file__))]
    text = json.dumps(requests).encode()
    try:
        done = subprocess.run(command, input=text, capture_output=True, timeout=SECONDS, check=False, env=environment)
        answers: list[Message] = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        return [{"error": "its process gave no answer"} for _ in requests]
    return answers


def _answer(request: Message) -> Message:
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(request["directory"], trust_remote_code=False, local_files_only=True)
        rendered = [_rendered(tokenizer, one) for one in request["asked"]]
    except BaseException as error:  # transformers raises errors of any type, and panics of tokenizers are not Exceptions
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return {"error": f"{type(error).__name__}: " + " ".join(str(error).split())[:300]}
    return {
        "class_name": type(tokenizer).__name__,
        "special_tokens": tokenizer.special_tokens_map,
        "pad_token_id": tokenizer.pad_token_id,
        "rendered": rendered,
    }


def _rendered(tokenizer: Any, one: Message) -> Message:
    """What vLLM (special tokens added to the text) or sentence-transformers (none added) makes of the pairs."""
    variables = {} if one["instruction"] is None else {"instruction": one["instruction"]}
    chats = [[{"role": "query", "content": query}, {"role": "document", "content": text}] for query, text in one["pairs"]]
    options = {"chat_template": one["template"], "add_generation_prompt": one["add_generation_prompt"], **variables}
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, **options) for chat in chats]
    if one["special"]:
        ids = [tokenizer(text)["input_ids"] for text in texts]
    else:
        ids = [tokenizer.apply_chat_template(chat, return_dict=True, **options)["input_ids"] for chat in chats]
    if not texts or tokenizer.pad_token_id is None:
        return {"texts": texts, "ids": ids, "last": [], "batch": []}
    rows = tokenizer(texts, padding=True, add_special_tokens=one["special"])["input_ids"]
    pad = tokenizer.pad_token_id
    last = [max((place for place, index in enumerate(row) if index != pad), default=-1) for row in rows]
    return {"texts": texts, "ids": ids, "last": last, "batch": rows}


def _main() -> None:
    """Answers the requests on standard input, as JSON on the last line of standard output."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # transformers then does without it
    requests = json.loads(sys.stdin.buffer.read())
    print()
    print(json.dumps([_answer(request) for request in requests]))


if __name__ == "__main__":
    _main()
