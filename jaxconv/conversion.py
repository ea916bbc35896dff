"""The one file that knows all stages, read top to bottom: source -> model -> plan -> head -> files -> published output."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jaxconv.arguments import checked
from jaxconv.backends import get_backend
from jaxconv.bundle import PROVENANCE, files
from jaxconv.bundle.provenance import provenance, with_hashes
from jaxconv.checkpoint import Checkpoint, sample
from jaxconv.consumers import consumers_of
from jaxconv.distributed import ALONE, Processes, agree, join
from jaxconv.errors import VerificationError
from jaxconv.head import ScoreHead, compute_head, read_head_rows
from jaxconv.inspection import describe_plan
from jaxconv.json_files import JsonDict, dump_json
from jaxconv.model import ReadOptions, read_config, read_model
from jaxconv.plan import Plan, PlanOptions, announced, make_plan
from jaxconv.sources import Source, resolve
from jaxconv.sources.hub import HubAccess
from jaxconv.text.prompt import read_template
from jaxconv.writer import OutputFile, check_or_note, check_provable, output_place, plan_files, staged_output, write_share
from jaxconv.writer.options import WriteOptions
from jaxconv.writer.share import Progress

if TYPE_CHECKING:
    from jaxconv.verification import Report


@dataclass(frozen=True, slots=True)
class Request:
    """All that a conversion was asked to do, beside its source and output."""

    read: ReadOptions = field(default_factory=ReadOptions)
    plan: PlanOptions = field(default_factory=PlanOptions)
    write: WriteOptions = field(default_factory=WriteOptions)
    backend: str = "auto"
    device: str = "auto"
    dry_run: bool = False
    verify: bool = False
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class ConversionResult:
    """What a conversion did.

    Attributes:
        output: The output directory, or its address; None after a dry run.
        plan: Every decision.
        backend: The backend that computed the head.
        device: The device that computed the head.
        files: Weight file -> "link", "reflink", "copy" or "write"; "planned" after a dry run.
        nbytes: Bytes of tensor data of the output.
        seconds: How long the conversion took.
        report: The proof, if `verify` was asked for.
        process_id: Which of several processes this is; the first proves and reports.
    """

    output: Path | str | None
    plan: Plan
    backend: str
    device: str
    files: Mapping[str, str]
    nbytes: int
    seconds: float
    report: Report | None = None
    process_id: int = 0

    def to_json(self) -> JsonDict:
        """The result as `jaxconv convert --json` prints it."""
        return {
            **describe_plan(self.plan),
            "output": str(self.output) if self.output else None,
            "backend": self.backend,
            "device": self.device,
            "num_labels": self.plan.num_labels,
            "activation": self.plan.activation,
            "files": dict(self.files),
            "output_bytes": self.nbytes,
            "seconds": round(self.seconds, 3),
            **({} if self.report is None else {"verification": self.report.to_json()}),
        }


@checked
def convert(
    source: str | Path,
    output: str | Path,
    *,
    preset: str | None = None,
    method: str | None = None,
    classifier_from_tokens: Sequence[str] | None = None,
    token_ids: Sequence[int] | None = None,
    use_sep_token: bool = False,
    consumers: Sequence[str] = ("vllm",),
    backend: str = "auto",
    device: str = "auto",
    base: str | Path | None = None,
    layout: str | None = None,
    step: int | None = None,
    adapter: str | Path | None = None,
    dequantize: bool = False,
    text_only: bool = False,
    dtype: str | None = None,
    template: str | Path | None = None,
    activation: str = "auto",
    calibrate: bool = False,
    scale: float = 1.0,
    bias: float = 0.0,
    copy_mode: str = "copy",
    max_shard_size: str = "5GB",
    allow_approximate: bool = False,
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
    heartbeat_timeout: int | None = None,
    progress: Progress | None = None,
) -> ConversionResult:
    """Converts a causal-LM reranker into a sequence classifier.

    Args:
        source: A directory, a hub id, or an address like gs://bucket/run.
        output: The directory or address to create.
        preset: A known reranker (see `jaxconv presets`); found from the source if None.
        method: "from_2_way_softmax" (true row minus false row) or "no_post_processing" (the rows themselves); by default
            the preset's, else the former for two tokens.
        classifier_from_tokens: The answers as vocabulary pieces, false first.
        token_ids: The answers as token ids instead, false first.
        use_sep_token: The value of `use_sep_token` and `use_pad_token` in config.json.
        consumers: Who is to load the output: "vllm", "sentence-transformers" or both. It matters for models without a
            classifier class in transformers, such as those of pictures.
        backend: What computes the head: "auto", "jax", "torch" or "numpy".
        device: Where: "auto", "cpu", "gpu" or "tpu".
        base: A model whose config and tokenizer are used, for sources that hold only weights.
        layout: The layout of the tensor names; detected if None.
        step: The step of a checkpoint manager's root; the newest if None.
        adapter: The directory or address of a PEFT LoRA adapter to merge.
        dequantize: Make bfloat16 numbers of the arrays that AQT or Qwix quantised.
        text_only: Of a model of pictures and text take the language model alone: exact for pairs of text.
        dtype: Cast the backbone to "float32", "bfloat16" or "float16"; as stored if None.
        template: The Jinja file of the prompt (variables `query`, `document`, `instruction`).
        activation: What consumers apply to the logit: "auto", "sigmoid" or "identity".
        calibrate: Fold the preset's calibration into the head.
        scale: score = scale * logit + bias, folded into the head.
        bias: score = scale * logit + bias, folded into the head.
        copy_mode: "copy", "link" or "reflink" for shards that need no change.
        max_shard_size: The shard size of sources that must be rewritten, like "5GB".
        allow_approximate: Allow conversions that keep the ranking but not the exact scores.
        hash: Record the sha256 of every file of the output.
        revision: Branch, tag or commit on the hub.
        token: Hub token.
        offline: Use only the hub's cache.
        overwrite: Replace a former output.
        dry_run: Plan and compute the head, write nothing.
        verify: Prove the result against the source before it is published.
        distributed: Share the work with processes that make the same call.
        coordinator: HOST:PORT of process 0, outside pods and clusters.
        num_processes: How many processes there are, outside pods and clusters.
        process_id: Which of them this is, from 0.
        heartbeat_timeout: Seconds without a sign of life after which JAX takes a process for lost; 100 by default.
        progress: Called with the bytes done and the bytes in all.

    Returns:
        What was decided and done.

    Raises:
        JaxconvError: The conversion was refused or failed; nothing is left at `output`. `UsageError` for a wrong
            argument, `SourceError` for a source that is missing or damaged, `TokenError` for answers that are not
            tokens, `RefusedError` for what would not be exact, `OutputError` for an output that cannot be written,
            `VerificationError` if `verify` failed.

    Example:
        >>> result = jaxconv.convert("./my-reranker", "out", classifier_from_tokens=["no", "yes"], backend="jax")
        >>> result.plan.method, result.plan.num_labels
        ('from_2_way_softmax', 1)
    """
    request = Request(
        ReadOptions(layout, step, adapter, dequantize, text_only),
        PlanOptions(
            preset=preset, method=method, classifier_from_tokens=classifier_from_tokens, token_ids=token_ids, dtype=dtype,
            template=read_template(template), activation=activation, calibrate=calibrate, scale=scale, bias=bias,
            allow_approximate=allow_approximate, use_sep_token=use_sep_token, consumers=consumers_of(consumers),
        ),
        WriteOptions(copy_mode, max_shard_size, hash, overwrite),
        backend, device, dry_run, verify, progress,
    )  # fmt: skip
    with join(distributed, (coordinator, num_processes, process_id), heartbeat_timeout, backend) as processes:
        located = resolve(source, base=base, access=HubAccess(revision, token, offline))
        return convert_resolved(located, output, request, processes=processes)


def convert_resolved(
    source: Source,
    output: str | Path,
    request: Request,
    opened: Checkpoint | None = None,
    processes: Processes = ALONE,
) -> ConversionResult:
    """Like `convert`, for a resolved source or an open checkpoint.

    Args:
        source: The resolved source.
        output: The directory to create.
        request: All other options.
        opened: The checkpoint of the source, if it is open already.
        processes: The processes that share the work.
    """
    started = time.monotonic()
    target = output_place(output)
    note = check_or_note(target, (source.weights, source.assets), request.write, dry_run=request.dry_run)
    options = (request.read, request.plan, request.write, request.dry_run, request.verify)
    agree(processes, lambda: {"option": options, "config.json": read_config(source)})
    backend = get_backend(request.backend, request.device)
    plan = announced(make_plan(read_model(source, request.read, opened), request.plan), note)
    if request.verify or plan.model.family.by_proof:
        check_provable(target)
    rows, biases = read_head_rows(plan.model.lm_head, plan.tokens)
    head = compute_head(rows, biases, plan.method, plan.model.transform, plan.calibration, backend)
    score = head.tensors(plan.model.family.head.score)
    weights = plan_files(plan.model.checkpoint, score, plan.dtype, request.write, plan.model.tensor_list)
    others = files(plan, head, weights)
    agree(processes, lambda: _facts(plan, head, weights))
    done: dict[str, str] = {}
    report = None
    if not request.dry_run:
        with staged_output(target, request.write, [*(file.name for file in weights), *others], processes) as stage:
            written = write_share(weights, stage, processes, options=request.write, progress=request.progress)
            done = {name: file.how for name, file in written.items()}
            if processes.rank == 0:
                hashes = {name: file.sha256 for name, file in written.items() if file.sha256 is not None}
                stage.write(_hashed(plan, head, others, hashes) if request.write.hash else others)
                if stage.local is not None and (request.verify or plan.model.family.by_proof):
                    report = _prove(plan, stage.local, request, opened)
    return ConversionResult(
        output=None if request.dry_run else target,
        plan=plan,
        backend=backend.name,
        device=backend.device,
        files=done or {file.name: "planned" for file in weights},
        nbytes=sum(file.nbytes for file in weights),
        seconds=time.monotonic() - started,
        report=report,
        process_id=processes.rank,
    )


def _facts(plan: Plan, head: ScoreHead, weights: Sequence[OutputFile]) -> dict[str, object]:
    """What processes must have found alike for their files to be those of one conversion."""
    model = plan.model
    bias = b"" if head.bias is None else head.bias.tobytes()
    return {
        "source": (model.source.revision, model.format, model.layout, Path(model.checkpoint.path).name),
        "set of tensors": [(file.name, ref.name, ref.dtype, ref.shape) for file in weights for ref in file.tensors],
        "set of weights": [sample(ref) for ref in model.checkpoint.tensors.values()],
        "score head": (plan.tokens, head.rows_sha256, head.weight.tobytes(), bias, plan.pad_token),
    }


def _hashed(plan: Plan, head: ScoreHead, others: Mapping[str, bytes], weights: Mapping[str, str]) -> dict[str, bytes]:
    """The files that are not weights, with the sha256 of every other file in the provenance."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in others.items() if name != PROVENANCE}
    record = with_hashes(provenance(plan, head), {**hashes, **weights})
    return {name: dump_json(record) if name == PROVENANCE else content for name, content in others.items()}


def _prove(plan: Plan, stage: Path, request: Request, opened: Checkpoint | None) -> Report:
    """The proof of what lies in `stage`. Raises `VerificationError` with the findings."""
    from jaxconv.verification import Claims, ScoreOptions, prove

    claims = Claims(plan.preset, plan.method, None, [token.id for token in plan.tokens], request.plan.template)
    backend = request.backend if request.backend in ("jax", "torch") else "auto"  # NumPy runs no model
    scoring = ScoreOptions(backend=backend, device=request.device)
    report = prove(plan.model.source, stage, claims, request.read, opened, scoring=scoring)
    if not report.passed:
        remedy = "Run the same command again; if it fails once more, report it."
        if plan.model.family.by_proof:
            remedy = f"{plan.model.family.architecture} has no table, so without a proof it cannot be converted."
        raise VerificationError(
            f"the result differs from its source, and nothing was published: {' '.join(report.findings)} {remedy}"
        )
    return report
