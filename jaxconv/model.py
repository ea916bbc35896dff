"""What a source is, whatever is asked of it: reader -> layout -> family -> adapter -> head."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxconv.adapter import Adapter, read_adapter
from jaxconv.checkpoint import Checkpoint, dominant_dtype
from jaxconv.errors import RefusedError, SourceError, UsageError
from jaxconv.families import (
    Family,
    LmHead,
    LogitTransform,
    Rows,
    adapter_names,
    check_backbone,
    check_proof_can_run,
    family_for,
    find_lm_head,
    text_config,
    text_only_config,
    tie_word_embeddings,
    with_defaults,
    with_served_towers,
    without_towers,
)  # fmt: skip
from jaxconv.file_errors import reading
from jaxconv.json_files import JsonObject, read_object
from jaxconv.layouts import to_hf
from jaxconv.merge import merge_adapter
from jaxconv.quantisation import Quantised
from jaxconv.quantisation.jax_trees import DTYPE, WIDE, QuantisedTree, open_quantised_tree, refusal_without_dequantize
from jaxconv.quantisation.reading import PackedBackbone, check_packed, quantisation_of, with_plain_head
from jaxconv.readers import explain, open_checkpoint
from jaxconv.sources import Source
from jaxconv.sources.assets import check_processor
from jaxconv.storage import File, located


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a source is read.

    Attributes:
        layout: The layout of the tensor names; detected if None.
        step: The step of a checkpoint manager's root; the newest if None.
        adapter: The directory or address of a PEFT LoRA adapter that is merged into the tensors.
        dequantize: Whether the arrays of a tree that AQT or Qwix quantised are made bfloat16 numbers; None: if it has any.
        text_only: Whether the language model of a composite is taken alone.
    """

    layout: str | None = None
    step: int | None = None
    adapter: str | Path | None = None
    dequantize: bool | None = False
    text_only: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """A causal LM whose tensors have been located and checked, none of them read.

    Attributes:
        source: Where its files lie.
        checkpoint: The backbone's tensors under Hugging Face names, without the head.
        format: The container the tensors lie in.
        layout: The layout their names had.
        config: The source's config.json.
        family: The family's answers.
        lm_head: The tensor whose rows score tokens.
        transform: What follows `hidden @ lm_head.T` in the causal LM.
        num_parameters: Elements of all stored tensors, the head included.
        nbytes: Bytes of all stored tensors, the head included.
        dtype: The safetensors dtype name that most of these bytes have.
        adapter: The adapter that is merged into the checkpoint.
        packed: How the backbone is quantised; None for a plain one.
        head_record: How the rows of a head in 8 bits come about; empty for a plain head.
        dequantised: The tree whose quantised arrays are made numbers when they are read; None for a plain source.
        whole: The composite whose language model this is, in the spelling of its tensors; None: the source is taken whole.
    """

    source: Source
    checkpoint: Checkpoint
    format: str
    layout: str
    config: JsonObject
    family: Family
    lm_head: LmHead
    transform: LogitTransform
    num_parameters: int
    nbytes: int
    dtype: str
    adapter: Adapter | None = None
    packed: PackedBackbone | None = None
    head_record: str = ""
    dequantised: QuantisedTree | None = None
    whole: Family | None = None

    @property
    def tensor_list(self) -> str | None:
        """The metadata key under which weight files list their tensors; None if their readers want no list."""
        return None if self.packed is None else self.packed.quantised.tensor_list


def read_config(source: Source) -> JsonObject:
    """The config.json of a source. Raises `SourceError` if it is missing or damaged."""
    path = source.assets / "config.json"
    with reading(path):
        explanation = None if path.exists() else explain(source.assets)
    if explanation is not None:
        raise SourceError(explanation)
    return read_object(path, "the model's configuration")


def read_model(
    source: Source, options: ReadOptions, opened: Checkpoint | None = None, *, compare_heads: Rows = "all"
) -> Model:
    """The model of a source.

    Args:
        source: The source.
        options: How it is read.
        opened: Its checkpoint, if it is open already.
        compare_heads: Which rows of head and embedding are compared where the config ties the two and both are stored.

    Raises:
        SourceError: The source is damaged, or its config and tensors disagree.
        RefusedError: The source cannot be converted exactly.
    """
    config = read_config(source)
    everything = opened = opened or open_checkpoint(source.weights, options.step)
    whole = family_for(config).spelled_as(opened.tensors) if options.text_only else None
    if whole is not None:
        config, opened = text_only_config(config, whole), without_towers(opened, whole)
    family = family_for(config)
    tree = _quantised_tree(opened, options)
    opened = opened if tree is None else tree.plain()
    quantised = quantisation_of(config, opened, source.assets)
    family = family.spelled_as(opened.tensors)
    defaults = with_defaults(text_config(config))
    layout, checkpoint = to_hf(opened, defaults, options.layout, family.head.embedding)
    if quantised is not None:
        _check_can_pass_through(quantised, family, options, unchanged=checkpoint.tensors.keys() == opened.tensors.keys())
    if whole is not None or family.composite is not None:
        _check_plain_source(whole or family, layout, quantised, options, source.assets)
    if family.composite is not None:
        checkpoint = with_served_towers(checkpoint, family, config)
    if family.by_proof:
        check_proof_can_run(family, layout, local=isinstance(source.weights, Path), adapted=options.adapter is not None)
    stored = (checkpoint if whole is None else everything).tensors.values()
    packed = None if quantised is None else check_packed(checkpoint, quantised, family, config)
    backbone = set(check_backbone(checkpoint, family, config) if packed is None else packed.tensors)
    adapter = None if options.adapter is None else _read_adapter(located(options.adapter), family, checkpoint)
    if adapter is not None:
        checkpoint = merge_adapter(checkpoint, adapter, family, tied=tie_word_embeddings(family, config)[0])
    with_head, head_record = (checkpoint, "") if packed is None else with_plain_head(checkpoint, family)
    if tree is not None:
        with_head, head_record = _unrounded_head(tree, to_hf(tree.plain(WIDE), defaults, layout)[1], checkpoint, family)
    lm_head = find_lm_head(with_head, family, config, compare=compare_heads)
    notes = (*checkpoint.notes, *_notes(tree, quantised, head_record))
    tensors = {name: ref for name, ref in checkpoint.tensors.items() if name in backbone}
    return Model(
        source=source,
        checkpoint=dataclasses.replace(checkpoint, tensors=tensors, notes=notes),
        format=opened.format,
        layout=layout,
        config=config,
        family=family,
        lm_head=lm_head,
        transform=dataclasses.replace(family.transform(config), bias=lm_head.bias is not None),
        num_parameters=sum(math.prod(ref.shape) for ref in stored),
        nbytes=sum(ref.nbytes for ref in stored),
        dtype=dominant_dtype(stored),
        adapter=adapter,
        packed=packed,
        head_record=head_record,
        dequantised=tree,
        whole=whole,
    )


def _read_adapter(directory: File, family: Family, checkpoint: Checkpoint) -> Adapter:
    """The adapter, its tensors named as the checkpoint's."""
    if family.composite is None:
        return read_adapter(directory)
    return read_adapter(directory, adapter_names(family, family.composite, checkpoint.tensors))


def _notes(tree: QuantisedTree | None, quantised: Quantised | None, head_record: str) -> Iterator[str]:
    """What the caller should know of a quantised source."""
    if tree is not None:
        yield f"{tree.summary}: converted to {DTYPE} numbers; the codes are not kept."
    if quantised is not None:
        yield from quantised.quantisation.warnings
    if head_record:
        yield f"{head_record}."


def _check_plain_source(family: Family, layout: str, quantised: Quantised | None, options: ReadOptions, assets: Path) -> None:
    """Raises `RefusedError` for sources with pictures whose conversion is not proven, `SourceError` without a processor."""
    causes = {
        f"the layout {layout}": layout != "hf",
        "an adapter that --text-only would merge in part": options.adapter is not None and options.text_only,
        "packed weights": quantised is not None,
    }
    for cause in (cause for cause, applies in causes.items() if applies):
        raise RefusedError(
            f"{family.architecture} reads pictures beside text, and such a source is converted from a plain Hugging Face "
            f"checkpoint; this one has {cause}. Write it as one first (merge_and_unload and save_pretrained for an adapter)."
        )
    if not options.text_only:
        check_processor(assets)


def _quantised_tree(opened: Checkpoint, options: ReadOptions) -> QuantisedTree | None:
    """The quantised arrays of a source that may be made numbers, or None.

    Raises:
        RefusedError: Nobody asked for that, or it cannot be done.
        UsageError: It was asked for, and there are none.
    """
    tree = open_quantised_tree(opened)
    if tree is None:
        if options.dequantize:
            raise UsageError(
                f"--dequantize is for trees that AQT or Qwix quantised, and {opened.path} has no such arrays. Leave it out: "
                "plain weights are copied, and packed ones of a Hugging Face checkpoint pass through."
            )
        return None
    if options.dequantize is False:
        raise refusal_without_dequantize(tree)
    if options.adapter is not None:
        raise RefusedError(
            f"--adapter cannot be merged into a tree that is quantised ({tree.summary}): the sum would be rounded to "
            "bfloat16 twice. Merge it in the library that trained it, or into the parameters from before quantisation."
        )
    return tree


def _unrounded_head(tree: QuantisedTree, wide: Checkpoint, checkpoint: Checkpoint, family: Family) -> tuple[Checkpoint, str]:
    """The checkpoint with the head in float32, codes times scale, and a sentence on it; empty for a head that is plain.

    Args:
        tree: The source's tree.
        wide: Its tensors, dequantised to float32, under Hugging Face names.
        checkpoint: Its tensors, dequantised to bfloat16, under Hugging Face names.
        family: The family, in the spelling of the tensors.
    """
    names = (family.head.weight, family.head.embedding)
    heads = {name: wide.tensors[name] for name in names if name in wide.tensors}
    changed = [name for name, ref in heads.items() if ref.dtype != checkpoint.tensors[name].dtype]
    used = family.head.weight if family.head.weight in heads else family.head.embedding
    record = f"the rows of {used} are its {tree.library} codes times their scales, in float32" if used in changed else ""
    return dataclasses.replace(checkpoint, tensors={**checkpoint.tensors, **heads}), record


def _check_can_pass_through(quantised: Quantised, family: Family, options: ReadOptions, *, unchanged: bool) -> None:
    """Raises `RefusedError` for what a packed backbone cannot go through."""
    if options.adapter is not None:
        raise RefusedError(
            f"--adapter cannot be merged into a packed backbone ({quantised.quantisation.summary}): the sum would have to be "
            "quantised again. Merge it into the original model, convert that, and quantise the result with score left out."
        )
    if family.by_proof:
        raise RefusedError(
            f"{family.architecture} has no table in jaxconv, and a quantised source ({quantised.quantisation.summary}) is "
            "checked by one. Convert the original model, then quantise the result with score left out."
        )
    if not unchanged:
        raise RefusedError(
            "the tensors of the quantised source do not have the names of the causal LM's class, and the lists in "
            "quantization_config go by names. Save it with AutoModelForCausalLM first, or convert the original model."
        )
