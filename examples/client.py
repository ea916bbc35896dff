"""Ranks documents with a converted model that vLLM serves: through `/score` and `/rerank`, in the standard library alone.

    vllm serve out --runner pooling --chat-template out/score_template.jinja
    python examples/client.py --query "what do cows eat?" --document "Cows eat grass." --document "Snow fell."

Both endpoints must tell the same; with a head calibrated by `--calibrate` the scores are the authors' own probabilities.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from typing import Any


def ask(url: str, body: dict[str, Any]) -> Any:
    """The JSON answer to one JSON request. Exits with the server's message when it refuses."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        sys.exit(f"{url}: {error.code} {error.read().decode(errors='replace')}")
    except urllib.error.URLError as error:
        sys.exit(f"{url}: {error.reason}. Is the server up? vllm serve OUT --runner pooling --chat-template …")


def score(url: str, query: str, documents: list[str], **extra: Any) -> list[float]:
    """One score a document, in order. `extra` goes into the request: instruction, use_activation, max_tokens_per_doc."""
    answer = ask(f"{url}/score", {"queries": query, "documents": documents, **extra})
    return [float(entry["score"]) for entry in answer["data"]]


def rerank(url: str, query: str, documents: list[str], **extra: Any) -> list[tuple[int, float]]:
    """(index, score) of each document, best first."""
    answer = ask(f"{url}/v1/rerank", {"query": query, "documents": documents, **extra})
    return [(int(entry["index"]), float(entry["relevance_score"])) for entry in answer["results"]]


def table(documents: list[str], ranked: list[tuple[int, float]]) -> str:
    """Rank, score, a bar for scores that are probabilities, and the document."""
    lines = ["rank   score              document"]
    for place, (index, value) in enumerate(ranked, 1):
        bar = "#" * round(10 * value) if 0 <= value <= 1 else ""
        text = " ".join(documents[index].split())
        lines.append(f"{place:>4}  {value:7.4f}  {bar:<10}  {text[:80]}")
    return "\n".join(lines)


def main() -> int:
    """0, or 1 when the two endpoints disagree."""
    parser = argparse.ArgumentParser(description="Ranks documents with a served reranker.")
    parser.add_argument("--url", default="http://localhost:8000", help="where vllm serve listens")
    parser.add_argument("--query", required=True)
    parser.add_argument("--document", action="append", required=True, help="may be repeated")
    parser.add_argument("--instruction", help="replaces the template's instruction")
    given = parser.parse_args()
    url, extra = given.url.rstrip("/"), {"instruction": given.instruction} if given.instruction else {}
    scores = score(url, given.query, given.document, **extra)
    ranked = rerank(url, given.query, given.document, **extra)
    print(table(given.document, ranked))
    worst = max(abs(scores[index] - value) for index, value in ranked)
    if worst > 0.01:  # two batches of a bfloat16 model differ by less
        print(f"/score and /v1/rerank differ by {worst:.4f}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
