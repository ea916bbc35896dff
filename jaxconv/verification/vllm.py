"""The same pairs through a running vLLM server, against the output's local scores."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jaxconv.errors import UsageError, VerificationError
from jaxconv.json_files import JsonObject
from jaxconv.pictures import SideText
from jaxconv.verification.pairs import Pairs
from jaxconv.verification.rank_agreement import rank_agreement
from jaxconv.verification.scores import Scores
from jaxconv.verification.server_dtype import ServerDtype, server_dtype

if TYPE_CHECKING:
    from jaxconv.checkpoint import Array

BATCH = 32  # pairs in a request
LIST_SECONDS, SCORE_SECONDS = 10, 300  # how long an answer may take; a batch takes long on a CPU


@dataclass(frozen=True, slots=True)
class Served:
    """Raw scores of the server against the local ones. `rank_agreement` is over pairs that the tolerance cannot swap."""

    url: str
    pairs: int
    max_abs_error: float
    rank_agreement: float
    tolerance: float
    tolerance_reason: str
    findings: tuple[str, ...]
    scores: tuple[float, ...]  # of the server, in the order of the pairs
    dtype: str  # that the server runs in, as far as anybody says


def server_url(text: str) -> str:
    """The root of the server at the address `text`, without /v1.

    Raises:
        UsageError: It is not an http address, or holds a password or a query, which would be recorded.
    """
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port or an IPv6 address
        usable = False
    if not usable:
        raise UsageError(f"--against-vllm {text!r} is not an address; expected one like http://localhost:8000.")
    if parts.username is not None or parts.query:
        raise UsageError("--against-vllm takes the plain address of the server; put its key into VLLM_API_KEY.")
    return text.rstrip("/").removesuffix("/v1").rstrip("/")


def compare_served(
    url: str, folder: Path, scores: Scores, tolerance: float | None = None, dtype: str | None = None
) -> Served:
    """Asks the server that serves an output for raw scores and compares them.

    Args:
        url: The root of the server, as `server_url` gives it.
        folder: The output directory that it serves.
        scores: The local scores, of one label, and their pairs.
        tolerance: The largest difference that passes; None for what the server's dtype allows.
        dtype: The dtype that the server runs in; None if nobody says.

    Raises:
        VerificationError: The server is not there, has another model or gives no scores.
    """
    import numpy as np

    model = _model(url, folder)
    longest, limit = max(scores.lengths), model.get("max_model_len")
    if isinstance(limit, int) and longest > limit:
        raise VerificationError(
            f"the longest prompt has {longest} tokens, {url} takes {limit}. Serve with --max-model-len {longest}, or "
            "give shorter documents with --pairs."
        )
    answers, prompt_tokens = _ask(url, str(model["id"]), scores.scored)
    local, served = np.asarray(scores.output, np.float64)[:, 0], np.asarray(answers, np.float64)
    runs, largest = server_dtype(dtype, folder), float(np.abs(local).max())
    limit, reason = runs.tolerance(largest, scores.tolerance, scores.tolerance_reason)
    if tolerance is not None:
        limit, reason = tolerance, "given"
    worst = float(np.abs(served - local).max())
    agreement = rank_agreement(local[:, None], served[:, None], 2 * limit)
    findings = []
    if prompt_tokens not in (None, sum(scores.lengths)):
        findings.append(
            f"vLLM read {prompt_tokens} tokens of prompts, the template gives {sum(scores.lengths)}: it was started without "
            f"the template, or with another. {_serve(folder)}"
        )
    if not worst <= limit:
        why = _reason(local, served, limit, runs) or f"It serves {model.get('root') or model['id']}."
        findings.append(f"vLLM's raw scores differ by {worst:.3g}, more than the tolerance {limit:.3g}. {why}")
    if agreement < 1:
        findings.append(f"vLLM keeps the order of only {agreement:.1%} of the pairs that are apart.")
    return Served(url, len(answers), worst, agreement, limit, reason, tuple(findings), tuple(answers), runs.name)


def _reason(local: Array, served: Array, limit: float, runs: ServerDtype) -> str | None:
    """What the difference looks like: an activation, or rounding of a size that float32 does not have."""
    import numpy as np

    if np.abs(served - 0.5 * (1 + np.tanh(local / 2))).max() <= limit:
        return "They are the sigmoid of the local ones: the server ignores use_activation; expected raw logits."
    rounded, _ = replace(runs, name="bfloat16").tolerance(float(np.abs(local).max()), limit, "")
    if runs.name != "bfloat16" and np.abs(served - local).max() <= rounded:
        return (
            "vLLM serves in the checkpoint's dtype, and bfloat16 keeps two to three digits: serve with --dtype float32, say "
            "what it runs in with --server-dtype, or give the difference that you accept as --tolerance."
        )
    return None


def _serve(folder: Path) -> str:
    return f"Run: vllm serve {folder} --runner pooling --chat-template {folder / 'score_template.jinja'}"


def _model(url: str, folder: Path) -> JsonObject:
    """The entry of /v1/models that serves `folder`, else the only entry (adapters do not count)."""
    answer = _request(url, "/v1/models", None, LIST_SECONDS)
    entries = answer.get("data") if isinstance(answer, dict) else None
    models = [entry for entry in entries or () if isinstance(entry, dict) and entry.get("id") and not entry.get("parent")]
    if not models:
        raise VerificationError(f"{url}/v1/models names no model; expected a vLLM server. {_serve(folder)}")
    for entry in models:
        root = Path(str(entry.get("root")))
        if root.is_dir() and root.samefile(folder):
            return entry
    roots = sorted({str(entry.get("root") or entry["id"]) for entry in models})
    if len(roots) > 1 or _another(Path(roots[0]), folder):
        raise VerificationError(f"{url} serves {', '.join(roots)}; expected {folder}. {_serve(folder)}")
    return models[0]


def _another(root: Path, folder: Path) -> bool:
    """Whether `root` is a model on this machine and not a copy of `folder`; nothing is known of other machines."""
    names = ("config.json", "jaxconv.json")
    return root.is_dir() and any(_bytes(root / name) != _bytes(folder / name) for name in names)


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _ask(url: str, name: str, pairs: Pairs) -> tuple[list[float], int | None]:
    """The raw score of every pair, and how many tokens the server says that it read (None when it does not say)."""
    scores: list[float] = []
    tokens: list[int | None] = []
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        body = {"model": name, "use_activation": False}
        queries, documents = ([_sent(pair[place]) for pair in batch] for place in (0, 1))
        body |= {"queries": queries, "documents": documents}
        answer = _request(url, "/score", body, SCORE_SECONDS)
        values = list(_scores(answer))
        if len(values) != len(batch):
            raise VerificationError(f"{url}/score gave {len(values)} scores for {len(batch)} pairs; expected one for each.")
        scores += values
        usage = answer.get("usage")
        count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        tokens.append(count if isinstance(count, int) else None)
    return scores, None if None in tokens else sum(count or 0 for count in tokens)


def _sent(side: SideText) -> str | JsonObject:
    """A side as a request has it; pictures as data: URLs, which no server has to fetch."""
    return side if isinstance(side, str) else side.request()


def _scores(answer: Any) -> Iterator[float]:
    """Scores of an answer in the order of the pairs."""
    entries = answer.get("data") if isinstance(answer, dict) else None
    for place, entry in enumerate(entries if isinstance(entries, list) else ()):
        value = entry.get("score") if isinstance(entry, dict) and entry.get("index", place) == place else None
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise VerificationError(f"/score gave {entry!r:.200} in place {place}; expected a number in the order asked.")
        yield float(value)


def _request(url: str, path: str, body: JsonObject | None, seconds: float) -> Any:
    """The JSON answer to a GET, or to a POST of `body`. Raises `VerificationError` for every way that it can fail."""
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("VLLM_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=seconds) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        text = error.read(2000).decode("utf-8", "replace")
        raise VerificationError(f"{url}{path} answers {error.code} {error.reason}: {_message(text)}") from None
    except TimeoutError:
        raise VerificationError(f"{url}{path} gave no answer in {seconds} s.") from None
    except ValueError as error:
        raise VerificationError(f"{url}{path} does not answer with JSON ({error}); expected a vLLM server.") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise VerificationError(f"no vLLM server answers at {url} ({reason}). Start it, or check the address.") from None


def _message(text: str) -> str:
    """The sentence in an error body of vLLM, else its start."""
    try:
        return str(json.loads(text)["error"]["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return text[:200]
