"""Opens the committed fixtures: what a foreign library wrote, and the original that it was given."""

from __future__ import annotations

import json
import string
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.foreign.originals import original_config, write_original

FIXTURES = Path(__file__).parent / "fixtures"
TOKENS = ["t5", "t7"]  # pieces with the ids 5 and 7


@dataclass(frozen=True)
class Case:
    """One unpacked fixture."""

    about: dict[str, Any]
    folder: Path
    original: Path

    @property
    def weights(self) -> Path:
        """What a user would pass as SOURCE."""
        return self.folder / "checkpoint" / self.about["weights"]

    @property
    def config(self) -> dict[str, Any]:
        """The original's config."""
        return original_config(self.about["family"], **self.about["settings"])

    @property
    def logits(self) -> np.ndarray[Any, Any]:
        """The library's own logits at the last position, float32 [2, vocab_size]."""
        return np.load(self.folder / "logits.npy")


def names() -> list[str]:
    """All fixtures, as library/case."""
    return sorted(str(path.relative_to(FIXTURES)).removesuffix(".tar.xz") for path in FIXTURES.glob("*/*.tar.xz"))


def about(name: str) -> dict[str, Any]:
    """What a fixture says of itself, read without unpacking the rest."""
    with tarfile.open(FIXTURES / f"{name}.tar.xz") as archive:
        found = archive.extractfile("case.json")
        assert found is not None
        return json.load(found)


def unpack(name: str, folder: Path, fixtures: Path = FIXTURES) -> Case:
    """Unpacks a fixture and makes its original, with a tokenizer of the words t4, t5, ..."""
    with tarfile.open(fixtures / f"{name}.tar.xz") as archive:
        archive.extractall(folder / "fixture", filter="data")
    said = json.loads((folder / "fixture" / "case.json").read_text())
    original = write_original(
        folder / "original", said["family"], dtype=said["original_dtype"], seed=said["seed"], **said["settings"]
    )
    config = json.loads((original / "config.json").read_text())
    write_tokenizer(original, config["vocab_size"], bytewise=config["model_type"] == "qwen2")
    return Case(said, folder / "fixture", original)


def write_tokenizer(folder: Path, vocab_size: int, *, bytewise: bool = False) -> None:
    """A tokenizer of exactly `vocab_size` pieces, t4, t5, ... among them: of words, or of words and bytes.

    transformers builds Qwen2's tokenizer anew as one of bytes, whatever tokenizer.json says.
    """
    alphabet = [*string.ascii_lowercase, *string.digits, "Ġ", "Ċ"] if bytewise else []
    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"t{number}" for number in range(4, vocab_size - len(alphabet))), *alphabet]
    vocabulary = {word: number for number, word in enumerate(words)}
    if bytewise:
        made = Tokenizer(models.BPE(vocabulary, []))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(words[:4])
    made.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
