"""The committed quantised checkpoints as sources of a conversion: with a tokenizer that fits their 192 rows."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from jaxconv.checkpoint import Extent, TensorRef, map_extent
from jaxconv.readers import open_checkpoint
from tests.foreign.quantised.cases import Case, unpack

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
TOKENS = ["no", "yes"]
OPTIONS: dict[str, Any] = {"classifier_from_tokens": TOKENS, "backend": "numpy"}
# Texts of characters that the tokenizer has.
PAIRS = [("is it", "the that this yes"), ("no", "this"), ("what is the yes", "that that the no this")]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A BPE tokenizer of printable ASCII and the two answers."""
    pieces = [*SPECIAL, *(chr(code) for code in range(32, 127)), "\n", "no", "ye", "yes"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    bpe = Tokenizer(models.BPE(vocabulary, [("n", "o"), ("y", "e"), ("ye", "s")], unk_token="<unk>"))
    bpe.decoder = decoders.Fuse()
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **names)


def quantised_source(name: str, folder: Path) -> Case:
    """Unpacks a fixture and puts the tokenizer beside it."""
    case = unpack(name, folder)
    tokenizer().save_pretrained(case.folder)
    return case


def stored_bytes(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Dtype, shape and bytes of every tensor of a directory."""
    return {name: (ref.dtype, ref.shape, _bytes(ref)) for name, ref in open_checkpoint(folder).tensors.items()}


def _bytes(ref: TensorRef) -> bytes:
    assert isinstance(ref.extent, Extent)
    return bytes(np.asarray(map_extent(ref.extent, "U8", (ref.extent.length,))))
