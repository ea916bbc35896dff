"""Saves what verl saves of an actor that two processes share: verl_fsdp.py MODEL OUTPUT."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed
from omegaconf import OmegaConf
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, AutoTokenizer
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

PROCESSES = 2


def save(rank: int, source: str, target: str) -> None:
    """One process of two: its share by verl's own checkpoint manager."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(PROCESSES))
    rendezvous = f"file://{os.path.abspath(target)}.rendezvous"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=PROCESSES)
    mesh = init_device_mesh("cpu", (PROCESSES,), mesh_dim_names=("fsdp",))
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    contents = OmegaConf.create({"save_contents": ["model"], "load_contents": ["model"]})
    tokenizer = AutoTokenizer.from_pretrained(source)
    FSDPCheckpointManager(model, None, None, tokenizer, checkpoint_config=contents).save_checkpoint(target)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(save, (sys.argv[1], sys.argv[2]), nprocs=PROCESSES)
