"""Wrong inputs as a table: what is done to a good source, the flags, and what the message must say."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Damage = Callable[[Path], None]
GOOD = ("--classifier-from-tokens", '["no","yes"]')
NORM = "model.norm.weight"


@dataclass(frozen=True)
class Case:
    """One wrong input. `says` are fragments of the message; `output` is where to, relative to the case's folder."""

    name: str
    says: tuple[str, ...]
    flags: tuple[str, ...] = GOOD
    damage: Damage | None = None
    shards: int = 1
    code: int = 1
    output: str = "out"
    source: str = "source"


def header(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Rewrites the JSON header of model.safetensors, data as it is."""

    def damage(source: Path) -> None:
        path = source / "model.safetensors"
        raw = path.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        document = json.loads(raw[8 : 8 + length])
        text = json.dumps(change(document) or document).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])

    return damage


def content(name: str, change: Callable[[bytes], bytes]) -> Damage:
    """Rewrites a file's bytes."""
    return lambda source: (source / name).write_bytes(change((source / name).read_bytes())) and None


def config(**changes: Any) -> Damage:
    """Changes keys of config.json; None removes one."""

    def damage(source: Path) -> None:
        document = json.loads((source / "config.json").read_text()) | changes
        (source / "config.json").write_text(json.dumps({k: v for k, v in document.items() if v is not None}))

    return damage


def index(change: Callable[[dict[str, str]], Any]) -> Damage:
    """Changes the weight map of the index."""

    def damage(source: Path) -> None:
        path = source / "model.safetensors.index.json"
        document = json.loads(path.read_text())
        document["weight_map"] = change(document["weight_map"]) or document["weight_map"]
        path.write_text(json.dumps(document))

    return damage


def only(*names: str) -> Damage:
    """Leaves config and tokenizer, and puts in other files instead of the weights."""

    def damage(source: Path) -> None:
        (source / "model.safetensors").unlink()
        for name in names:
            (source / name).write_bytes(b"\x80\x02")

    return damage


def remove(name: str) -> Damage:
    """Removes a file."""
    return lambda source: (source / name).unlink()


def empty(source: Path) -> None:
    """Removes everything."""
    shutil.rmtree(source)
    source.mkdir()


def rows(value: bytes) -> Damage:
    """Sets every embedding value to two given bytes."""

    def damage(source: Path) -> None:
        path = source / "model.safetensors"
        raw = bytearray(path.read_bytes())
        (length,) = struct.unpack("<Q", raw[:8])
        begin, end = json.loads(raw[8 : 8 + length])["model.embed_tokens.weight"]["data_offsets"]
        raw[8 + length + begin : 8 + length + end] = value * ((end - begin) // 2)
        path.write_bytes(raw)

    return damage


def tokens(text: str) -> tuple[str, ...]:
    """The flag with these tokens."""
    return ("--classifier-from-tokens", text)


def ids(text: str) -> tuple[str, ...]:
    """The flag with these ids."""
    return ("--token-ids", text)


CASES = (
    # tokens
    Case("no tokens", ("no tokens were given", "--preset"), ()),
    Case("unknown token", ("'zebra'", "pieces", "false first"), tokens('["no","zebra"]')),
    Case("several pieces", ("'yes no'", "encodes to 2 pieces", "false first"), tokens('["no","yes no"]')),
    Case("near pieces are shown", ("'Yes'", "'ĠYes'"), tokens('["no","  Yes"]')),
    Case("equal tokens", ("not all different", "'yes'"), tokens('["yes","yes"]')),
    Case("equal ids", ("not all different",), ids("[7,7]")),
    Case("out of range", ("100000", "out of range", "320 rows"), ids("[5,100000]")),
    Case("negative id", ("-1", "below 320"), ids("[5,-1]")),
    Case("padding range", ("319", "padding"), ids("[5,319]")),
    Case("boolean id", ("True", "whole number"), ids("[5,true]"), code=2),
    Case("fractional id", ("1.5", "whole number"), ids("[5,1.5]"), code=2),
    Case("string as id", ("'yes'", "whole number"), ids('[5,"yes"]'), code=2),
    Case("number as token", ("5", "a string"), tokens("[5,6]"), code=2),
    Case("empty token", ("''", "at least one character"), tokens('["","yes"]')),
    Case("tokens not JSON", ("no,yes", "not JSON"), tokens("no,yes"), code=2),
    Case("tokens not a list", ("dict", "expected a list"), tokens('{"no":1}'), code=2),
    Case("ids not JSON", ("--token-ids", "not JSON"), ids("5 6"), code=2),
    Case("one token for two", ("exactly two", "not 1"), (*tokens('["yes"]'), "--method", "from_2_way_softmax")),
    Case("three tokens for two", ("not 3",), (*tokens('["no","yes","No"]'), "--method", "from_2_way_softmax")),
    Case("no token at all", ("at least one",), tokens("[]")),
    Case("tokens and ids", ("both", "one of them"), (*GOOD, *ids("[5,6]"))),
    Case("preset of another model", ("qwen3-reranker", "2152"), ("--preset", "qwen3-reranker")),
    # flags and backends
    Case("unknown method", ("'max'", "no_post_processing"), (*GOOD, "--method", "max"), code=2),
    Case("unknown backend", ("'mlx'", "numpy"), (*GOOD, "--backend", "mlx"), code=2),
    Case("unknown device", ("'npu'", "tpu"), (*GOOD, "--device", "npu"), code=2),
    Case("missing device", ("'tpu'", "--device cpu"), (*GOOD, "--backend", "torch", "--device", "tpu"), code=2),
    Case("unknown preset", ("'gpt'", "jaxconv presets"), ("--preset", "gpt"), code=2),
    Case("unknown dtype", ("'int4'", "bfloat16"), (*GOOD, "--dtype", "int4"), code=2),
    Case("unknown layout", ("'keras'", "hf"), (*GOOD, "--layout", "keras"), code=2),
    Case("unknown copy mode", ("'move'", "reflink"), (*GOOD, "--copy-mode", "move"), code=2),
    Case("unknown activation", ("'tanh'", "identity"), (*GOOD, "--activation", "tanh"), code=2),
    Case("bad shard size", ("'big'", "5GB"), (*GOOD, "--max-shard-size", "big"), code=2),
    Case("scale of zero", ("--scale", "finite"), (*GOOD, "--scale", "0"), code=2),
    Case("bias not a number", ("--bias", "finite"), (*GOOD, "--bias", "nan"), code=2),
    Case("calibration without preset", ("--calibrate", "--scale"), (*GOOD, "--calibrate"), code=2),
    Case("template missing", ("nowhere.jinja",), (*GOOD, "--template", "nowhere.jinja"), code=2),
    Case("unknown flag", ("--fast",), (*GOOD, "--fast"), code=2),
    # files
    Case("truncated", ("truncated", "Download"), damage=content("model.safetensors", lambda raw: raw[:-10])),
    Case("trailing bytes", ("no tensor owns",), damage=content("model.safetensors", lambda raw: raw + b"xx")),
    Case("empty file", ("0 bytes", "at least 8"), damage=content("model.safetensors", lambda raw: b"")),
    Case("huge header", ("claims", "limit"), damage=content("model.safetensors", lambda raw: b"\xff" * 7 + b"\0" + raw)),
    Case("header not JSON", ("not valid JSON",), damage=content("model.safetensors", lambda raw: raw[:8] + b"[" + raw[9:])),
    Case("header a list", ("list", "object"), damage=header(lambda document: [1])),
    Case("offsets outside", (NORM,), damage=header(lambda d: d[NORM].update(data_offsets=[10**9, 10**9 + 128]))),
    Case("offsets backwards", (NORM,), damage=header(lambda d: d[NORM].update(data_offsets=[128, 0]))),
    Case("offsets overlap", ("overlaps",), damage=header(lambda d: d[NORM].update(data_offsets=[0, 128]))),
    Case("shape against bytes", (NORM, "needs"), damage=header(lambda d: d[NORM].update(shape=[65]))),
    Case("negative shape", (NORM,), damage=header(lambda d: d[NORM].update(shape=[-64]))),
    Case("unknown tensor dtype", ("'F128'", "known"), damage=header(lambda d: d[NORM].update(dtype="F128"))),
    Case("entry without dtype", (NORM, "lacks"), damage=header(lambda d: d[NORM].pop("dtype") and None)),
    # index
    Case("index leaves the folder", ("'../x.safetensors'", "plain file name"),
         damage=index(lambda m: m.update({NORM: "../x.safetensors"})), shards=3),
    Case("index with an absolute path", ("plain file name",), damage=index(lambda m: m.update({NORM: "/x"})), shards=3),
    Case("index not JSON", ("not valid JSON",), damage=content("model.safetensors.index.json", lambda raw: b"{"), shards=3),
    Case("index without a map", ("weight_map",), damage=content("model.safetensors.index.json", lambda raw: b"{}"), shards=3),
    Case("tensor that no shard has", ("model.ghost", "disagree"),
         damage=index(lambda m: m.update({"model.ghost": next(iter(m.values()))})), shards=3),
    Case("tensor not in the index", (NORM, "not in the index"), damage=index(lambda m: m.pop(NORM) and None), shards=3),
    Case("missing shard", ("00002-of", "not there"), damage=lambda s: next(s.glob("*-00002-of-*")).unlink(), shards=3),
    Case("tensor in two shards", ("in two shards",), shards=3,
         damage=lambda s: shutil.copy(next(s.glob("*-00001-of-*")), next(s.glob("*-00002-of-*"))) and None),
    Case("single file and index", ("both",), damage=lambda s: (s / "model.safetensors.index.json").write_text("{}") and None),
    # config
    Case("no config", ("config.json", "--base"), damage=remove("config.json")),
    Case("config not JSON", ("not valid JSON",), damage=content("config.json", lambda raw: raw[:-9])),
    Case("config a list", ("list",), damage=content("config.json", lambda raw: b"[]")),
    Case("encoder-decoder", ("encoder-decoder",), damage=config(model_type="t5", is_encoder_decoder=True)),
    Case("already a classifier", ("classifier already",), damage=config(architectures=["Qwen3ForSequenceClassification"])),
    Case("unknown model type", ("'mamba'", "Known"), damage=config(model_type="mamba", architectures=None)),
    Case("quantised", ("quantised",), damage=config(quantization_config={"bits": 4})),
    Case("too many layers", ("3", "missing"), damage=config(num_hidden_layers=3)),
    Case("another hidden size", ("hidden_size", "128"), damage=config(hidden_size=128)),
    Case("hidden size a string", ("hidden_size",), damage=config(hidden_size="64")),
    Case("another vocabulary size", ("model.embed_tokens.weight",), damage=config(vocab_size=321)),
    Case("untied without a head", ("lm_head.weight", "tie_word_embeddings"), damage=config(tie_word_embeddings=False)),
    Case("tensor missing", (NORM, "missing"), damage=header(lambda d: d.update({"model.nrm": d.pop(NORM)}))),
    # rows, tokenizer, other files
    Case("NaN in the rows", ("NaN", "finite"), damage=rows(b"\xc0\x7f")),
    Case("infinity in the rows", ("infinite",), damage=rows(b"\x80\x7f")),
    Case("no tokenizer", ("tokenizer.json",), damage=remove("tokenizer.json")),
    Case("tokenizer damaged", ("tokenizer.json", "cannot be used"), damage=content("tokenizer.json", lambda raw: raw[:99])),
    Case("adapter only", ("is a PEFT adapter", "--adapter"), damage=only("adapter_model.safetensors", "adapter_config.json")),
    Case("pickle only", ("no zip archive", "safetensors"), damage=only("pytorch_model.bin")),
    Case("no weights", ("no weights",), damage=only()),
    Case("empty folder", ("config.json",), damage=empty),
    Case("source a file", ("is a file", "directory"), source="source/config.json"),
    Case("source absent", ("does not exist", "hub id"), source="./nowhere"),
    # output
    Case("output exists", ("not empty", "--overwrite"), output="full"),
    Case("output not ours", ("not made by jaxconv",), (*GOOD, "--overwrite"), output="full"),
    Case("output a file", ("is not a directory",), output="file"),
    Case("output below a file", ("is not a directory",), output="file/out"),
    Case("output inside the source", ("inside the source",), output="source/out"),
    Case("output is the source", ("source itself",), output="source"),
    Case("output contains the source", ("contains the source",), output="."),
)  # fmt: skip
