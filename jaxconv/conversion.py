"""The one file that knows all stages: source -> plan -> head -> files -> bundle -> published output."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxconv.backends import get_backend
from jaxconv.bundle import write_bundle
from jaxconv.bundle.config import read_json
from jaxconv.bundle.provenance import provenance
from jaxconv.bundle.template import render
from jaxconv.bundle.tokenizer import PadToken, find_pad_token
from jaxconv.checkpoint import Array, Checkpoint, TensorRef, sample
from jaxconv.distributed import ALONE, Processes, agree, join
from jaxconv.errors import RefusedError, TokenError, UsageError, VerificationError
from jaxconv.head import ScoreHead, compute_head, read_head_rows
from jaxconv.hub import is_offline, read_headers
from jaxconv.plan import Plan, Source
from jaxconv.planning import UNDECIDED, Options, describe, make_plan, read_model, read_template
from jaxconv.sources import max_shard_bytes, resolve
from jaxconv.tokens import Vocabulary
from jaxconv.writer import OutputFile, Written, index_json, plan_files, staged_output, write_share
from jaxconv.writer.publish import check_output
from jaxconv.writer.share import Progress

if TYPE_CHECKING:
    from jaxconv.verification import Report

COPY_MODES = ("copy", "link", "reflink")


@dataclass(frozen=True, slots=True)
class ConversionResult:
    """What a conversion did. `output` is None after a dry run."""

    output: Path | None
    plan: Plan
    backend: str
    device: str
    files: dict[str, str]  # file -> link, reflink, copy or write, by whichever process
    nbytes: int
    seconds: float
    pad_token: PadToken | None
    report: Report | None = None  # of --verify
    process_id: int = 0  # of several; the first proves and reports

    def to_json(self) -> dict[str, Any]:
        """The result as `jaxconv convert --json` prints it."""
        return {
            **describe(self.plan),
            "output": str(self.output) if self.output else None,
            "backend": self.backend,
            "device": self.device,
            "num_labels": self.plan.num_labels,
            "activation": self.plan.activation,
            "files": self.files,
            "output_bytes": self.nbytes,
            "seconds": round(self.seconds, 3),
            **({} if self.report is None else {"verification": self.report.to_json()}),
        }


def convert(
    source: str | Path,
    output: str | Path,
    *,
    backend: str = "auto",
    device: str = "auto",
    base: str | Path | None = None,
    template: str | Path | None = None,
    copy_mode: str = "copy",
    max_shard_size: str = "5GB",
    hash: bool = False,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    verify: bool = False,
    distributed: bool = False,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> ConversionResult:
    """Converts a causal-LM reranker into the classifier directory `output`.

    `options` are the fields of `planning.Options` (preset, method, classifier_from_tokens, token_ids, ...).
    `verify` proves the result before it is published, and raises `VerificationError` when that fails.
    `distributed` shares the work between processes that make the same call (see `distributed.join`).
    Raises a `JaxconvError`; then nothing is left at `output`.
    """
    with join(distributed, coordinator, num_processes, process_id) as processes:
        return convert_found(
            resolve(source, base=base, revision=revision, token=token, offline=offline),
            None,
            output,
            Options(template=read_template(template), **options),
            backend=backend,
            device=device,
            copy_mode=copy_mode,
            max_shard_size=max_shard_size,
            hash=hash,
            overwrite=overwrite,
            dry_run=dry_run,
            verify=verify,
            progress=progress,
            processes=processes,
        )


def convert_found(
    found: Source,
    checkpoint: Checkpoint | None,
    output: str | Path,
    chosen: Options,
    *,
    backend: str,
    device: str = "auto",
    copy_mode: str = "copy",
    max_shard_size: str = "5GB",
    hash: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    verify: bool = False,
    progress: Progress | None = None,
    processes: Processes = ALONE,
) -> ConversionResult:
    """Converts a source that has been found, or a checkpoint that is open already. As `convert` otherwise."""
    started = time.monotonic()
    if copy_mode not in COPY_MODES:
        raise UsageError(f"--copy-mode {copy_mode!r} is unknown; expected one of: {', '.join(COPY_MODES)}.")
    shard_bytes = max_shard_bytes(max_shard_size)
    target = Path(output).expanduser()
    folders = tuple(path for path in (found.weights, found.assets) if isinstance(path, Path))
    check_output(target, folders, overwrite)
    config = read_json(found.assets / "config.json", "the model's configuration")
    agree(processes, lambda: {"option": (chosen, copy_mode, shard_bytes, hash, dry_run, verify), "config.json": config})
    arithmetic = get_backend(backend, device)
    plan = make_plan(read_model(found, chosen, checkpoint), chosen)
    head = compute_head(*read_head_rows(plan.lm_head, plan.tokens), plan.method, plan.transform, plan.calibration, arithmetic)
    files = plan_files(
        plan.checkpoint,
        tuple(plan.checkpoint.tensors),
        score_tensors(head),
        dtype=plan.dtype,
        keep_files=copy_mode != "copy",
        max_shard_bytes=shard_bytes,
    )
    pad = _pad_token(plan)
    agree(processes, lambda: _facts(plan, head, files, pad))
    done: dict[str, str] = {}
    report = None
    if not dry_run:
        with staged_output(target, processes) as stage:
            written = write_share(files, stage, processes, copy_mode=copy_mode, hash=hash, progress=progress)
            done = {name: file.how for name, file in written.items()}
            if processes.rank == 0:
                _write_rest(plan, head, files, stage, written, pad)
                if verify:
                    report = _prove(plan, stage, chosen, checkpoint, backend=backend, device=device)
    return ConversionResult(
        output=None if dry_run else target,
        plan=plan,
        backend=arithmetic.name,
        device=arithmetic.device,
        files=done or {file.name: "planned" for file in files},
        nbytes=sum(file.nbytes for file in files),
        seconds=time.monotonic() - started,
        pad_token=pad,
        report=report,
        process_id=processes.rank,
    )


def _facts(plan: Plan, head: ScoreHead, files: tuple[OutputFile, ...], pad: PadToken | None) -> dict[str, object]:
    """What processes must have found alike for their files to be those of one conversion."""
    return {
        "source": (plan.source.revision, plan.format, plan.layout, Path(plan.checkpoint.path).name),
        "set of tensors": [(file.name, ref.name, ref.dtype, ref.shape) for file in files for ref in file.tensors],
        "set of weights": [sample(ref) for ref in plan.checkpoint.tensors.values()],
        "score head": (plan.tokens, head.rows_sha256, head.weight.tobytes(), head.bias is None or head.bias.tobytes(), pad),
    }


def _write_rest(
    plan: Plan, head: ScoreHead, files: tuple[OutputFile, ...], stage: Path, written: dict[str, Written], pad: PadToken | None
) -> None:
    """Everything that is not weights."""
    index = index_json(files)
    if index is not None:
        (stage / index[0]).write_text(index[1], encoding="utf-8")
    record = provenance(plan, head)
    hashes = {name: file.sha256 for name, file in sorted(written.items()) if file.sha256 is not None}
    if hashes:
        record["sha256"] = hashes
    write_bundle(plan, stage, record, pad)


def _prove(plan: Plan, stage: Path, options: Options, checkpoint: Checkpoint | None, *, backend: str, device: str) -> Report:
    """The proof of what lies in `stage`. Raises `VerificationError` with what was found."""
    from jaxconv.verification import Claims, prove

    claims = Claims(method=plan.method, token_ids=[token.id for token in plan.tokens])
    runs = backend if backend in ("jax", "torch") else "auto"  # NumPy runs no model
    report = prove(plan.source, stage, claims, options, checkpoint, backend=runs, device=device)
    if not report.passed:
        raise VerificationError(
            f"the result is not its source, and nothing was published: {' '.join(report.findings)} "
            "Run the same command again; if it fails once more, report it."
        )
    return report


def _pad_token(plan: Plan) -> PadToken | None:
    vocabulary = Vocabulary(plan.source.assets)
    prompt = render(plan.prompt.template, "query", "document", plan.prompt.instruction)
    encoded = vocabulary.encode(prompt) if plan.prompt.known else []
    return find_pad_token(plan.source.assets, vocabulary, encoded[-1].id if encoded else None)


def score_tensors(head: ScoreHead) -> tuple[TensorRef, ...]:
    """`score.weight` F32 [num_labels, hidden_size] and, where it is not zero, `score.bias` F32 [num_labels]."""

    def held(name: str, array: Array) -> TensorRef:
        return TensorRef(name, "F32", array.shape, lambda: array, lambda ids, axis: array.take(list(ids), axis))

    bias = () if head.bias is None else (held("score.bias", head.bias),)
    return (held("score.weight", head.weight), *bias)


def inspect(
    source: str | Path,
    *,
    base: str | Path | None = None,
    template: str | Path | None = None,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """What a source is and what `convert` would do, as a JSON-ready dict; a refusal is an entry, not an error.

    Raises `SourceError` and `UsageError` for a source that is not there or a call that is wrong.
    """
    found, checkpoint = _headers(source, base=base, revision=revision, token=token, offline=offline)
    chosen = Options(template=read_template(template), **options)
    config = read_json(found.assets / "config.json", "the model's configuration")
    said: dict[str, Any] = {
        "source": found.name,
        **dict.fromkeys(("format", "layout", "target_architecture", "num_parameters", "bytes", "dtype", "lm_head")),
        "model_type": config.get("model_type"),
        "architecture": (config.get("architectures") or [None])[0],
        "logit_transform": None,
        **UNDECIDED,
    }
    try:
        model = read_model(found, chosen, checkpoint)
        said = describe(model)
        return describe(make_plan(model, chosen))
    except (RefusedError, TokenError) as error:
        return {**said, "refusals": [str(error)]}


def _headers(source: str | Path, **access: Any) -> tuple[Source, Checkpoint | None]:
    """A source, and of one on the hub the headers of its weights; they are fetched whole where they are no safetensors."""
    found = resolve(source, **access, weights=False)
    if found.hub_id is None:
        return found, None
    offline = is_offline(access["offline"])
    checkpoint = None if offline else read_headers(found.hub_id, revision=found.revision, token=access["token"])
    return (resolve(source, **access), None) if checkpoint is None else (found, checkpoint)
