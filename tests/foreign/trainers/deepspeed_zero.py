"""Saves what DeepSpeed ZeRO saves of a model: deepspeed_zero.py MODEL OUTPUT STAGE."""

from __future__ import annotations

import os
import sys

import deepspeed
import torch
import torch.distributed
from deepspeed.comm import torch as communication
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM


def save(source: str, target: str, stage: int) -> None:
    """One process, bfloat16 with float32 master weights, as `deepspeed.initialize` makes them."""
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    communication.build_shm_op = lambda: None  # an extension that wants a C++ compiler and changes no file
    torch.distributed.init_process_group("gloo", init_method=f"file://{target}.rendezvous", rank=0, world_size=1)
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.0),
        config={
            "train_batch_size": 1,
            "bf16": {"enabled": True},
            "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        },
    )
    engine.save_checkpoint(target)
    if stage == 3:  # the mistake that leaves tensors without values: the parameters were not gathered
        state = {name: tensor.clone() for name, tensor in engine.module.state_dict().items()}
        save_file(state, f"{target}/model.safetensors", {"format": "pt"})


if __name__ == "__main__":
    save(sys.argv[1], sys.argv[2], int(sys.argv[3]))
