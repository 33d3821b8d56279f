#!/usr/bin/env bash
# Training on a GPU, measured in one call of less than ten minutes, on a machine with PyTorch and OpenCV:
#     bash benchmarks/gpu.sh [OUT] [flags of python -m benchmarks.gpu]      (OUT: runs/benchmarks)
# What is missing there is taken from runs/wheels where that folder is. On a machine with a network, beforehand:
#     PYTHON_VERSION=3.12 bash benchmarks/gpu.sh wheels
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
MISSING=(ultralytics ultralytics-thop hotcoco)

if [ "${1:-}" = wheels ]; then
    platforms=()
    for tag in manylinux_2_28 manylinux_2_17 manylinux2014 manylinux1; do
        platforms+=(--platform "${tag}_x86_64")
    done
    exec "$PYTHON" -m pip download --no-deps --only-binary=:all: --python-version "${PYTHON_VERSION:-3.12}" \
        --implementation cp "${platforms[@]}" --dest runs/wheels "${MISSING[@]}"
fi

out=${1:-runs/benchmarks}
shift || true
if ls runs/wheels/*.whl >/dev/null 2>&1; then
    # Beside what is installed, not over it.
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" runs/wheels/*.whl
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi

# Whether a step waits for the GPU: an error of PyTorch's own check, for each assigner.
if "$PYTHON" -c "import pytest" 2>/dev/null; then
    "$PYTHON" -m pytest -q -rs -p no:cacheprovider tests/engine/train/test_no_waiting.py -k on_a_gpu || waits=1
else
    echo "pytest is not installed: that no step waits for the GPU is not checked"
fi
"$PYTHON" -m benchmarks.gpu --out "$out" "$@"
exit "${waits:-0}"
