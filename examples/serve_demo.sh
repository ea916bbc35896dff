#!/usr/bin/env bash
# Serves the demo's output with vLLM on the CPU and asks it to rank documents: serve_demo.sh VENV
set -euo pipefail
output=demo-output/smollm2-reranker port=${PORT:-8000}
export HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=1 VLLM_NO_USAGE_STATS=1
command=("$1/bin/vllm" serve "$output" --runner pooling --chat-template "$output/score_template.jinja"
  --dtype float32 --enforce-eager --max-model-len 512 --host 127.0.0.1 --port "$port")
echo "\$ ${command[*]}"
PATH="$1/bin:$PATH" "${command[@]}" > demo-output/vllm.log 2>&1 &
server=$!
trap 'kill $server 2> /dev/null; wait $server 2> /dev/null || true' EXIT
echo "Waiting for the server, about a minute; its log is demo-output/vllm.log ..."
until "$1/bin/python" -c "import urllib.request as r; r.urlopen('http://127.0.0.1:$port/health')" 2> /dev/null; do
  kill -0 $server 2> /dev/null || { tail -20 demo-output/vllm.log; exit 1; }
  sleep 2
done
"$1/bin/python" examples/client.py --url "http://127.0.0.1:$port" --query "what is the largest ocean?" \
  --document "The Pacific is the largest ocean on Earth and covers a third of its surface." \
  --document "Whales cross the ocean every year to find food." --document "The meeting was moved to Friday morning."
