"""`verify`: what an output claims, its tensors, head and files, and its scores -> one report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from jaxconv.arguments import checked
from jaxconv.checkpoint import Checkpoint
from jaxconv.errors import JaxconvError, SourceError, UsageError, VerificationError
from jaxconv.model import Model, ReadOptions, read_model
from jaxconv.pictures import SideLike
from jaxconv.readers import open_checkpoint
from jaxconv.sources import Source, resolve
from jaxconv.sources.hub import HubAccess
from jaxconv.storage import check_address, is_address, need_here
from jaxconv.text.prompt import read_template
from jaxconv.verification.adapter import AdapterFiles, read_adapter_files
from jaxconv.verification.claims import Claims, Expected, expect
from jaxconv.verification.config import check_config
from jaxconv.verification.head import Head, check_head
from jaxconv.verification.jax_trees import how_dequantised
from jaxconv.verification.modules import check_modules
from jaxconv.verification.output import read_output
from jaxconv.verification.page import prepare, write_report
from jaxconv.verification.pairs import Pairs, TextPairs, as_texts
from jaxconv.verification.pictures import check_pixels, mark_of, notes_of, with_pictures
from jaxconv.verification.prompts import check_ends, encode
from jaxconv.verification.quantisation import how_read, is_left_out
from jaxconv.verification.report import Report, unreadable
from jaxconv.verification.score_options import ScoreOptions, check_options
from jaxconv.verification.scores import Scores, compare_scores
from jaxconv.verification.sides import Compared, choose_sides
from jaxconv.verification.source_files import SourceFiles, check_here, read_source
from jaxconv.verification.structure import Structure, compare_tensors
from jaxconv.verification.template import check_claimed_prompt, check_recorded_templates, check_template
from jaxconv.verification.text import check_text
from jaxconv.verification.tokenizer import check_tokenizer
from jaxconv.verification.vllm import Served, compare_served

TEXTS = 64  # pairs whose text is compared; scores are compared for all


@checked
def verify(
    source: str | Path,
    output: str | Path,
    *,
    pairs: str | Path | Sequence[tuple[SideLike, SideLike]] | None = None,
    backend: str = "auto",
    device: str = "auto",
    tolerance: float | None = None,
    structure_only: bool = False,
    against_vllm: str | None = None,
    server_dtype: str | None = None,
    allow_remote_images: bool = False,
    report: str | Path | None = None,
    base: str | Path | None = None,
    layout: str | None = None,
    step: int | None = None,
    adapter: str | Path | None = None,
    revision: str | None = None,
    token: str | None = None,
    offline: bool = False,
    preset: str | None = None,
    method: str | None = None,
    classifier_from_tokens: Sequence[str] | None = None,
    token_ids: Sequence[int] | None = None,
    template: str | Path | None = None,
) -> Report:
    """Proves that a converted directory is the classifier of a source: tensors, head, files, prompts and raw scores.

    The proof is another computation than the conversion. Tensors are compared with the source's own arrays through tables
    written from the libraries' own loaders, adapters are merged again and the head is computed again in float64. With JAX and
    transformers installed and `backend="auto"`, transformers computes the causal LM's logits and JAX the classifier's.

    Args:
        source: The causal LM: a directory, a hub id, or the URI of an Orbax checkpoint.
        output: The directory that `convert` wrote.
        pairs: What is scored: a JSONL file of {"query", "document"}, or (query, document) tuples; built-in pairs if None. For
            a model that reads pictures a side may be {"image": path or URL, "text": …}, and the built-in pairs have some.
        backend: What runs the models: "auto" (two implementations, if two are installed and run the model), "jax" or "torch".
            A backend that is named runs both sides, and no other is imported.
        device: Where they run: "auto", "cpu", "gpu" or "tpu".
        tolerance: The largest difference of a raw score that passes, with `against_vllm` of the server's scores; by default
            from the size of float32 rounding, and of rounding in the server's dtype.
        structure_only: Compare tensors and files, run no model.
        against_vllm: The address of a vLLM server that serves `output`, whose raw scores are compared too.
        server_dtype: What the server runs in: "float32", "bfloat16" or "float16"; vLLM does not say it. By default the dtype
            of config.json for packed weights, else float32. It decides how far the server's scores may be off.
        allow_remote_images: Fetch pictures of pairs from http and https addresses.
        report: A directory for report.html and report.json. They are written whatever is found, also if the source or the
            output cannot be read.
        base: A model whose config and tokenizer are used, for sources that hold only weights.
        layout: The layout of the tensor names; detected if None.
        step: The step of a checkpoint manager's root; the newest if None.
        adapter: The directory of the PEFT LoRA adapter that was merged.
        revision: Branch, tag or commit on the hub.
        token: Hub token.
        offline: Use only the hub's cache.
        preset: The known reranker that `output` must be (see `jaxconv presets`): its tokens and its prompt.
        method: "from_2_way_softmax" or "no_post_processing"; what the output records if None.
        classifier_from_tokens: The answers that the output must have as vocabulary pieces, false first; what it records if
            None.
        token_ids: The same as token ids.
        template: The Jinja file that the output's prompt must come from; what the output records if None.

    Returns:
        The report: `passed`, `structure`, `head`, `scores`, `vllm`, `findings` and `notes`; `to_json()` gives the document
        that `jaxconv verify --json` prints, whose keys are listed there.

    Raises:
        UsageError: The call is wrong: no pairs, a wrong argument, an unknown or missing backend.
        SourceError: The source or the output cannot be read at all; `LayoutError` for names that no layout explains.
        RefusedError: The source is one that `convert` refuses.
        OutputError: The report cannot be written.

    Example:
        >>> report = jaxconv.verify("./my-reranker", "out", classifier_from_tokens=["no", "yes"])
        >>> report.passed, report.scores.kind
        (True, 'independent')
    """
    scoring = ScoreOptions(pairs, backend, device, tolerance, structure_only, against_vllm, server_dtype, allow_remote_images)
    claims = Claims(preset, method, classifier_from_tokens, token_ids, read_template(template))
    directory = None if report is None else prepare(Path(report).expanduser())
    try:
        located = resolve(source, base=base, access=HubAccess(revision, token, offline))
        options = ReadOptions(layout, step, adapter, dequantize=None)
        if is_address(output):
            raise need_here("verify compares an output's", check_address(str(output)))
        proved = prove(located, Path(output).expanduser(), claims, options, scoring=scoring)
    except JaxconvError as error:
        if directory is not None and not isinstance(error, UsageError):
            write_report(directory, unreadable(str(error)), str(source), str(output))
        raise
    if directory is not None:
        write_report(directory, proved, str(source), str(output))
    return proved


def prove(
    source: Source,
    folder: Path,
    claims: Claims,
    options: ReadOptions,
    checkpoint: Checkpoint | None = None,
    *,
    scoring: ScoreOptions | None = None,
) -> Report:
    """Like `verify`, for a resolved source or an open checkpoint.

    Args:
        source: The source.
        folder: The converted directory.
        claims: What the caller says that it is.
        options: How the source is read.
        checkpoint: The source's checkpoint, if it is open already.
        scoring: How scores are compared.
    """
    scoring = scoring or ScoreOptions()
    pairs, url = check_options(scoring)
    output = read_output(folder)
    options = replace(options, text_only=(output.record or {}).get("text_only") is True)
    raw = checkpoint or open_checkpoint(source.weights, options.step)
    check_here(source, raw, options)
    model = read_model(source, options, raw)
    expected = expect(model, output, claims)
    if url is not None and expected.num_labels != 1:
        raise UsageError(f"--against-vllm needs one label; {folder} has {expected.num_labels}, which /score does not take.")
    arrays, adapter = read_source(model, raw), _adapter(model)
    merges = adapter.merges(lambda name: _dtype_of(name, arrays, model))
    structure = compare_tensors(
        tuple(model.checkpoint.tensors), arrays, output.tensors,
        dtype=expected.dtype, merges=merges, score=model.family.head.score,
        left_out=lambda name: is_left_out(model, name),
    )  # fmt: skip
    head = check_head(model, arrays, adapter, output, expected)
    template = tuple(check_template(output))
    findings = [
        *output.findings, *expected.findings, *arrays.findings, *adapter.findings, *structure.findings, *head.findings,
        *check_config(model, output, expected), *check_tokenizer(model, output), *template,
        *check_recorded_templates(output), *check_pixels(model, output),
        *check_modules(output, model.family.head.score, has_class=model.family.transformers_seq_cls),
    ]  # fmt: skip
    notes: list[str] = []
    scores = None
    texts = as_texts(pairs[:TEXTS], mark_of(model))
    if not template:
        findings += check_claimed_prompt(output, source.assets, expected.prompt, texts)
    if not scoring.structure_only:
        if not template:
            _check_text(source, folder, texts, findings, notes)
        reason = _cannot_run(structure, head, template)
        if reason is None:
            scores = _scores(Compared(model, arrays, merges, output, expected), pairs, scoring, findings, notes)
        else:
            findings.append(f"scores were not compared: {reason}")
    notes += _notes(model, expected, scores, scoring)
    served = None if url is None else _served(url, folder, scores, scoring, findings)
    return Report(structure, head, scores, served, tuple(findings), tuple(notes))


def _adapter(model: Model) -> AdapterFiles:
    if model.adapter is None:
        return AdapterFiles({}, {})
    assert isinstance(model.adapter.path, Path)  # check_here refuses others
    return read_adapter_files(model.adapter.path, {*model.checkpoint.tensors, model.family.head.weight})


def _dtype_of(name: str, arrays: SourceFiles, model: Model) -> str:
    """The dtype of the source's own array of a tensor."""
    refs = arrays.named(name)
    return refs[0].dtype if refs else model.dtype


def _check_text(source: Source, folder: Path, pairs: TextPairs, findings: list[str], notes: list[str]) -> None:
    """Prompts and token ids through transformers; without it a note says what rests on jaxconv's own reading."""
    text = check_text(source.assets, folder, pairs)
    findings += text.findings
    if text.own_reading and not text.findings:
        notes.append(
            f"transformers is not installed, so {', '.join(text.own_reading)} rest on jaxconv's own reading. "
            "Verify where it is installed to compare them."
        )


def _notes(model: Model, expected: Expected, scores: Scores | None, scoring: ScoreOptions) -> Iterator[str]:
    """What the report leaves out or takes for granted."""
    if expected.prompt is None and not scoring.structure_only:
        yield "the output does not record where its prompt comes from; pass --template or --preset to hold it against yours."
    if expected.dtype is not None and scores is not None:
        yield f"the source's backbone was cast to {expected.dtype} before its scores were computed, as the output's was."
    if scores is not None and model.packed is not None:
        yield how_read(model, scores.quantizer)
    if model.family.composite is not None and scores is not None:
        yield from notes_of(scores.pictures)
    if model.whole is not None and scores is not None and scores.backend.startswith("torch"):
        yield f"the source's scores are those of {model.whole.architecture}, towers included; the output has none."
    if model.dequantised is not None:
        yield how_dequantised(model)
    if scores is not None and scores.kind == "consistency":
        yield (
            f"{scores.backend} computed the scores of both sides, so a mistake in it would not show; with --backend auto and "
            "JAX and transformers installed, two implementations do where both run the model."
        )


def _scores(compared: Compared, pairs: Pairs, scoring: ScoreOptions, findings: list[str], notes: list[str]) -> Scores | None:
    """The comparison of scores, its findings added; None, and a finding, where a model cannot be run."""
    tolerance = scoring.tolerance if scoring.against_vllm is None else None
    sides = choose_sides(scoring.backend, scoring.device, compared)
    pairs = with_pictures(compared.model, sides.source.name, pairs, scoring.pairs is None, notes)
    try:
        prompts = encode(compared.model, compared.output, pairs)
        findings += check_ends(prompts, compared.output)
        try:
            scores = compare_scores(compared, sides, prompts, tolerance)
        except SourceError as error:
            if not sides.quantizer:
                raise
            notes.append(f"transformers could not read the two directories with its quantizer ({error}).")
            sides = choose_sides(scoring.backend, scoring.device, compared, quantizer=False)
            scores = compare_scores(compared, sides, prompts, tolerance)
    except UsageError:
        raise
    except Exception as error:  # a damaged output makes frameworks raise anything, and the rest of the report stands
        reason = str(error) if isinstance(error, JaxconvError) else f"{type(error).__name__}: {error}"
        findings.append(f"scores were not compared: {reason}")
        return None
    findings += scores.findings
    return scores


def _served(url: str, folder: Path, scores: Scores | None, scoring: ScoreOptions, findings: list[str]) -> Served | None:
    """The server's scores, or None and a finding."""
    try:
        if scores is None:
            raise VerificationError("there are no local scores.")
        served = compare_served(url, folder, scores, scoring.tolerance, scoring.server_dtype)
    except VerificationError as error:
        findings.append(f"vLLM was not compared: {error}")
        return None
    findings += served.findings
    return served


def _cannot_run(structure: Structure, head: Head, template: tuple[str, ...]) -> str | None:
    """Why the output cannot be run at all, or None."""
    if head.max_abs_error is None:
        return "the score head cannot be used."
    if template:
        return "there is no template that can be used."
    if any("differs" not in finding for finding in structure.findings):
        return "tensors of the backbone are missing or of another shape."
    return None
