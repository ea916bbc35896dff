"""What an output with a packed backbone says of its quantisation: the entry that keeps `score` plain, and who reads it."""

from __future__ import annotations

from jaxconv.json_files import JsonDict, JsonObject, dump_json
from jaxconv.plan import Plan
from jaxconv.quantisation.jax_trees import DTYPE

CONFIG = "config.json"
# vLLM's on-line quantisation takes every linear layer, and no key in a checkpoint can except the score row.
ONLINE = """\
With on-line quantisation (`--quantization fp8` and the like) add `--quantization-config '{"ignore":["score"]}'`: vLLM
quantises the score row too otherwise, and the scores are off."""
LIBRARIES = {"vllm": "vLLM", "transformers": "transformers", "sentence-transformers": "sentence-transformers"}


def source_config(plan: Plan) -> JsonObject:
    """The source's config.json; of a quantised source with the entry that keeps `score` plain.

    Args:
        plan: The plan of the conversion.
    """
    packed = plan.model.packed
    return plan.model.config if packed is None else packed.quantised.edits.get(CONFIG, plan.model.config)


def companion_files(plan: Plan) -> dict[str, bytes]:
    """The files beside config.json whose list of plain modules grows by `score`.

    Args:
        plan: The plan of the conversion.
    """
    edits = {} if plan.model.packed is None else plan.model.packed.quantised.edits
    return {name: dump_json(content) for name, content in edits.items() if name != CONFIG}


def readers(plan: Plan) -> list[str]:
    """Who reads a quantised output, a line each; empty for a plain one.

    Args:
        plan: The plan of the conversion.
    """
    if plan.model.packed is None:
        return []
    lines = []
    for consumer in plan.model.packed.quantised.quantisation.consumers:
        verdict = "reads it." if consumer.reads else "gives wrong scores."
        lines.append(f"{LIBRARIES[consumer.name]} {verdict} {consumer.caveat}".rstrip())
    return lines


def transformers_reads(plan: Plan) -> bool:
    """Whether transformers gives the right scores: it has the class, and reads the quantisation.

    Args:
        plan: The plan of the conversion.
    """
    if not plan.model.family.transformers_seq_cls:
        return False
    if plan.model.packed is None:
        return True
    consumers = plan.model.packed.quantised.quantisation.consumers
    return all(consumer.reads for consumer in consumers if consumer.name == "transformers")


def quantisation_record(plan: Plan) -> JsonDict:
    """What the provenance says of the output's quantisation, or of the source's that was undone; empty for plain ones.

    Args:
        plan: The plan of the conversion.
    """
    packed, head, tree = plan.model.packed, plan.model.head_record, plan.model.dequantised
    if tree is not None:
        dequantised: JsonDict = {"library": tree.library, "arrays": len(tree.arrays), "scheme": tree.summary, "dtype": DTYPE}
        return {"dequantised": dequantised | ({"head": head} if head else {})}
    if packed is None:
        return {}
    quantised = packed.quantised
    record: JsonDict = {
        "method": quantised.method,
        "scheme": quantised.quantisation.summary,
        "edited": sorted(quantised.edits),
        "readers": {
            consumer.name: {"reads": consumer.reads, "caveat": consumer.caveat}
            for consumer in quantised.quantisation.consumers
        },
    }
    return {"quantisation": record | ({"head": head} if head else {})}
