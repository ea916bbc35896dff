"""Directories that are not a model but that people pass for one: what each is, and the command that goes on from there.

Every command is executed by tests/readers/test_directories.py and test_trainers.py.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CACHE_PREFIX = "models--"
ZERO_SCRIPT = "zero_to_fp32.py"  # which DeepSpeed leaves beside its state
STEP = re.compile(r"checkpoint-(\d+)")
SHARD = re.compile(r"model.*-(\d+)-of-(\d+)\.safetensors")
WRITE_INDEX = (
    "import json, pathlib, safetensors; directory = pathlib.Path({directory!r}); "
    "weight_map = {{name: file.name for file in directory.glob('model*-of-*.safetensors') "
    "for name in safetensors.safe_open(file, 'numpy').keys()}}; "
    "(directory / 'model.safetensors.index.json').write_text(json.dumps({{'metadata': {{}}, 'weight_map': weight_map}}))"
)


def explain(directory: Path) -> str | None:
    """What `directory` is if it does not hold a model, and the next command; None if its kind is not known."""
    names = sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []
    explanations = (_adapter, _hub_cache, _verl, _deepspeed, _distributed, _shards, _trainer_output)
    return next((text for explanation in explanations if (text := explanation(directory, names)) is not None), None)


def _command(*arguments: str | Path) -> str:
    return shlex.join(str(argument) for argument in arguments)


def _convert(source: str | Path, *flags: str | Path) -> str:
    return _command("jaxconv", "convert", source, "OUTPUT", *flags)


def _adapter(directory: Path, names: list[str]) -> str | None:
    if ADAPTER_CONFIG not in names and not any(name.startswith("adapter_model") for name in names):
        return None
    base = _recorded_base(directory)
    adapter: Path = directory
    first = ""
    if ADAPTER_WEIGHTS not in names and directory.parent.name == "snapshots":
        repository = _repository(directory.parent.parent.name)
        adapter = Path(repository.split("/")[-1])
        first = f"{_command('hf', 'download', repository, '--local-dir', adapter)} && "
    shown = f"its base is {base}" if base else "adapter_config.json does not name its base: put it in place of BASE"
    return (
        f"{directory} is a PEFT adapter, not a model ({shown}). Convert the base with it: "
        f"{first}{_convert(base or 'BASE', '--adapter', adapter)}"
    )


def _recorded_base(directory: Path) -> str | None:
    try:
        base = json.loads((directory / ADAPTER_CONFIG).read_bytes()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return base if isinstance(base, str) and base.isprintable() and base else None


def _repository(name: str) -> str:
    """The hub id of a directory of the hub's cache."""
    return name.removeprefix(CACHE_PREFIX).replace("--", "/")


def _hub_cache(directory: Path, names: list[str]) -> str | None:
    if directory.name.startswith(CACHE_PREFIX) and "snapshots" in names:
        snapshots = sorted((directory / "snapshots").iterdir(), key=lambda entry: entry.stat().st_mtime)
        if not snapshots:
            download = _convert(_repository(directory.name))
            return f"{directory} is an empty entry of the hub's cache. Download the model: {download}"
        main = directory / "refs" / "main"
        commit = main.read_text().strip() if main.is_file() else ""
        newest = directory / "snapshots" / commit if (directory / "snapshots" / commit).is_dir() and commit else snapshots[-1]
        return f"{directory} is an entry of the hub's cache, not a model. Convert its snapshot: {_convert(newest)}"
    cached = [_repository(name) for name in names if name.startswith(CACHE_PREFIX)]
    if cached:
        return (
            f"{directory} is the hub's cache ({', '.join(cached[:5])}), not a model. Name one of its models: "
            f"{_command('env', f'HF_HUB_CACHE={directory}', 'jaxconv', 'convert', cached[0], 'OUTPUT', '--offline')}"
        )
    return None


def _verl(directory: Path, names: list[str]) -> str | None:
    rank = re.compile(r"model_world_size_\d+_rank_\d+\.pt")
    actor = next((path for name in ("", "actor") if _holds(path := directory / name, rank.fullmatch)), None)
    steps = sorted(directory.glob("global_step_*/actor"), key=lambda path: int(re.sub(r"\D", "", path.parent.name) or 0))
    actor = actor or (steps[-1] if steps and _holds(steps[-1], rank.fullmatch) else None)
    if actor is None:
        return None
    merged = directory / "merged"
    merge = _command("python", "-m", "verl.model_merger", "merge", "--backend", "fsdp", "--local_dir", actor,
                     "--target_dir", merged)  # fmt: skip
    return (
        f"{directory} holds FSDP shards of verl, not a model. Merge them (verl's merger writes bfloat16) and convert that: "
        f"{merge} && {_convert(merged)}"
    )


def merge_zero(directory: Path) -> str | None:
    """The commands that merge and convert the state of DeepSpeed ZeRO in `directory`; None if it holds none."""
    names = [entry.name for entry in directory.iterdir()] if directory.is_dir() else []
    if ZERO_SCRIPT not in names and not any(re.fullmatch(r"global_step\d+", name) for name in names):
        return None
    merged = directory / "merged"
    run = ("python", directory / ZERO_SCRIPT) if ZERO_SCRIPT in names else ("python", "-m", "deepspeed.utils.zero_to_fp32")
    merge = _command(*run, directory, merged)  # its --safe_serialization fails where head and embedding are tied
    return f"{_base_hint(names)}: {merge} && {_convert(merged, '--base', _base_of(directory, names))}"


def _deepspeed(directory: Path, names: list[str]) -> str | None:
    commands = merge_zero(directory)
    if commands is None:
        return None
    return (
        f"{directory} holds the state of DeepSpeed ZeRO, spread over ranks, not a model. Merge it (in float32, as it was "
        f"trained; --dtype bfloat16 rounds) and convert that{commands}"
    )


def _base_of(directory: Path, names: list[str]) -> str | Path:
    """What brings config and tokenizer to merged weights."""
    return directory if "config.json" in names else "BASE"


def _base_hint(names: list[str]) -> str:
    return "" if "config.json" in names else ", with the model that was trained in place of BASE"


def _distributed(directory: Path, names: list[str]) -> str | None:
    if "pytorch_model_fsdp.bin" in names:
        whole, model = directory / "pytorch_model_fsdp.bin", directory / "pytorch_model.bin"
        return (
            f"{directory} holds a whole state of FSDP under a name that no loader reads. Rename it: "
            f"{_command('mv', whole, model)} && {_convert(directory)}"
        )
    places = [directory / name for name in ("", *names) if _holds(directory / name, lambda file: file.endswith(".distcp"))]
    models = [place for place in places if not place.name.startswith("optimizer")]
    if not models:
        return None
    merged = directory / "merged"
    merge = _command("accelerate", "merge-weights", models[0], merged)
    return (
        f"{directory} holds a distributed checkpoint of PyTorch ({models[0].name}/*.distcp), not a model. Merge it and "
        f"convert that{_base_hint(names)}: {merge} && {_convert(merged, '--base', _base_of(directory, names))}"
    )


def _holds(directory: Path, fits: Callable[[str], object]) -> bool:
    return directory.is_dir() and any(fits(entry.name) for entry in directory.iterdir())


def _shards(directory: Path, names: list[str]) -> str | None:
    shards = [match for name in names if (match := SHARD.fullmatch(name))]
    if not shards:
        return None
    total = int(shards[0][2])
    if len(shards) < total:
        present = {int(match[1]) for match in shards}
        missing = next(number for number in range(1, total + 1) if number not in present)
        return (
            f"{directory} holds {len(shards)} of {total} shards and no {INDEX}; number {missing} is missing. Download the "
            "model again, index included."
        )
    if total == 1:
        rename = _command("mv", directory / shards[0][0], directory / SINGLE)
        return f"{directory} holds one shard without an index. Rename it: {rename} && {_convert(directory)}"
    write = _command("python", "-c", WRITE_INDEX.format(directory=str(directory)))
    return (
        f"{directory} holds {total} shards and no {INDEX}, which loaders need. Download it, or write it: "
        f"{write} && {_convert(directory)}"
    )


def _trainer_output(directory: Path, names: list[str]) -> str | None:
    steps = sorted((int(match[1]), match[0]) for name in names if (match := STEP.fullmatch(name)))
    if not steps:
        return None
    newest = directory / steps[-1][1]
    inside = explain(newest)
    listed = ", ".join(name for _, name in steps[-5:])
    introduction = f"{directory} is the output directory of a trainer with {len(steps)} checkpoints ({listed}), not a model"
    return f"{introduction}. {inside}" if inside else f"{introduction}. Convert the newest: {_convert(newest)}"
