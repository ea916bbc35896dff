"""Which libraries and devices are here: what a report of a fault needs."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jaxconv.json_files import JsonDict
from jaxconv.version import __version__

LIBRARIES = (
    "jax", "jaxlib", "flax", "orbax-checkpoint", "tensorstore", "torch", "transformers", "tokenizers", "safetensors",
    "huggingface_hub", "sentence-transformers", "vllm", "numpy", "ml_dtypes",
)  # fmt: skip
# How a framework names its devices, run in a process of its own: a driver that hangs or crashes is an answer too.
DEVICES = {
    "jax": "import jax; print(*(f'{d.platform}:{d.id} {d.device_kind}' for d in jax.devices()), sep='\\n')",
    "torch": (
        "import torch; print('cpu', *(f'cuda:{i} {torch.cuda.get_device_name(i)}' for i in range(torch.cuda.device_count())),"
        " sep='\\n')"
    ),
}
VARIABLES = ("JAX_PLATFORMS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE")
SECONDS = 60
CREDENTIALS = re.compile(r"//[^/@\s]*@")  # of a URL: user and password, which a report must not have


def environment() -> JsonDict:
    """Versions and devices.

    Returns:
        `jaxconv`, `python`, `platform`, `executable`, `package`; `libraries`: version by name, None where one is missing;
        `devices`: those of each installed framework, or one line that says why there are none; `variables`: those of the
        process that change how frameworks and the hub behave.
    """
    libraries = {name: _version(name) for name in LIBRARIES}
    return {
        "jaxconv": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "executable": sys.executable,
        "package": str(Path(__file__).parent),
        "libraries": libraries,
        "devices": {name: _devices(code) for name, code in DEVICES.items() if libraries[name] is not None},
        "variables": {name: CREDENTIALS.sub("//", os.environ[name]) for name in VARIABLES if name in os.environ},
    }


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _devices(code: str) -> list[str]:
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return [f"no answer within {SECONDS} seconds"]
    if done.returncode:
        return [f"fails: {(done.stderr.strip().splitlines() or ['exit code ' + str(done.returncode)])[-1]}"]
    return done.stdout.split("\n")[:-1]
