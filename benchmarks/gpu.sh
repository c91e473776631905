#!/usr/bin/env bash
# Run all that needs a GPU, in minutes: the tests marked gpu, then measurements of a training step
# and of pruning, written to one JSON file. Needs neither Ray nor MLflow.
#
#   benchmarks/gpu.sh [FILE]        FILE defaults to gpu.json
#   PYTHON=... benchmarks/gpu.sh    another interpreter than python3
#
# It exits with the tests' code after measuring; the JSON holds it too.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
out="${1:-gpu.json}"
python="${PYTHON:-python3}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

"$python" - <<'CHECK'
import importlib.util
import sys

needed = "torch transformers tokenizers safetensors pyarrow yaml pydantic hjson deepspeed pytest hypothesis"
missing = [name for name in needed.split() if importlib.util.find_spec(name) is None]
if missing:
    sys.exit(
        f"benchmarks/gpu.sh: {sys.executable} lacks {', '.join(missing)}. Install them at the "
        "versions of constraints.txt. Where nothing can be downloaded, make wheels elsewhere and "
        "carry them:\n"
        "  DS_BUILD_OPS=0 python -m pip wheel -c constraints.txt --no-deps -w wheels deepspeed \\\n"
        "      hjson pydantic pydantic-core annotated-types typing-inspection\n"
        "  python3 -m pip install --no-index --no-deps wheels/*.whl\n"
        "Wheels with compiled code (pydantic-core) must be of the other machine's Python."
    )
CHECK

tests=0
timeout 150 "$python" -m pytest -m gpu tests/workers/test_gpu.py -q -p no:cacheprovider || tests=$?
timeout 360 "$python" -m benchmarks.gpu --out "$out" --seconds 300 --tests-exit-code "$tests"
exit "$tests"
