"""Calls that a type checker must refuse; each has the error in a comment, and `warn_unused_ignores` makes it count."""

from __future__ import annotations

import jaxconv

jaxconv.convert("source")  # type: ignore[call-arg]
jaxconv.convert("source", "out", classifier_from_tokens=5)  # type: ignore[arg-type]
jaxconv.convert("source", "out", nonsense=True)  # type: ignore[call-arg]
jaxconv.inspect("source", token_ids=["no"])  # type: ignore[list-item]
jaxconv.convert_params({}, "out")  # type: ignore[call-arg]
