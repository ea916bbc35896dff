"""Libraries that keep Hugging Face's paths and call their leaves kernel, embedding and scale; kernels are [in, out].

Source: transformers 4.57 modeling_flax_pytorch_utils.py; EasyDeL 0.3 parameters_transformation.py, whose norms are called
kernel too; flax nnx.Linear and nnx.LinearGeneral, whose kernels may have heads as axes of their own.
"""

from __future__ import annotations

from collections.abc import Iterator

from jaxconv.json_files import JsonObject
from jaxconv.verification.libraries._place import Place

LAYOUTS = ("hf_flax", "easydel", "nnx")
VECTOR_LEAVES = {"hf_flax": ("weight", "scale"), "easydel": ("kernel", "scale"), "nnx": ("weight", "scale")}
# Projections with heads as axes: (Hugging Face, library).
HEADS = {
    "q_proj": ("(N H) D", "D N H"),
    "k_proj": ("(G H) D", "D G H"),
    "v_proj": ("(G H) D", "D G H"),
    "o_proj": ("D (N H)", "N H D"),
}
HEAD_BIASES = {"q_proj": ("(N H)", "N H"), "k_proj": ("(G H)", "G H"), "v_proj": ("(G H)", "G H")}


def places(name: str, config: JsonObject, layout: str) -> Iterator[Place]:
    """Embeddings as they are, kernels transposed, norms under any of their names."""
    stem, _, leaf = name.rpartition(".")
    module = stem.rpartition(".")[2]
    # A plain nnx.Module of the backbone has no level "model".
    stems = [stem, stem.removeprefix("model.")] if layout == "nnx" and stem.startswith("model.") else [stem]
    for path in stems:
        if leaf == "bias":
            yield Place(f"{path}.bias")
            if module in HEAD_BIASES and layout == "nnx":
                yield Place(f"{path}.bias", *HEAD_BIASES[module])
        elif module == "embed_tokens":
            yield Place(f"{path}.embedding")
        elif module.endswith("norm"):
            yield from (Place(f"{path}.{vector}") for vector in VECTOR_LEAVES[layout])
        else:
            yield Place(f"{path}.kernel", "O I", "I O")
            if module in HEADS and layout == "nnx":
                yield Place(f"{path}.kernel", *HEADS[module])
