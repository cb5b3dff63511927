#!/usr/bin/env bash
# Run the numeric tests with other seeds, BLAS kernels and thread counts, and count failures:
#   bash scripts/repeat_numeric_tests.sh [REPEATS=20] [pytest options or files]
# PYTHON names another interpreter than .venv's. Exit status 1 where a run failed.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
repeats=${1:-20}
shift || true
runs=0 failed=0

once() { # label, then NAME=VALUE pairs up to --, then pytest's arguments
  local label=$1 settings=() output status
  shift
  while [ "$1" != -- ]; do settings+=("$1"); shift; done
  shift
  output=$(env "${settings[@]}" "$python" -m pytest -q -m "numeric and not slow" "$@" 2>&1)
  status=$?
  runs=$((runs + 1))
  echo "$label: $(tail -n 1 <<<"$output")"
  if [ $status != 0 ]; then
    failed=$((failed + 1))
    grep -E "^(FAILED|ERROR|E  )" <<<"$output"
  fi
}

# The kernel that OpenBLAS took, by its own word; nothing where MLX does not use OpenBLAS (macOS).
kernel() {
  OPENBLAS_CORETYPE=$1 "$python" - <<'PYTHON'
import ctypes

from mlx_phi3v.backend_mlx.cpu import blas

if blas.load():
    name = ctypes.CDLL(blas.loaded).openblas_get_corename
    name.restype = ctypes.c_char_p
    print(name().decode().upper())
PYTHON
}

for ((seed = 0; seed < repeats; seed++)); do
  once "seed $seed" TEST_SEED=$seed OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 -- "$@"
done
for wanted in HASWELL ZEN SKYLAKEX; do
  if [ $wanted = SKYLAKEX ] && ! grep -qw avx512f /proc/cpuinfo 2>/dev/null; then
    echo "$wanted: not run, this CPU has no AVX-512"
    continue
  fi
  found=$(kernel $wanted 2>/dev/null)
  if [ "$found" != $wanted ]; then
    echo "$wanted: not run, the BLAS here is ${found:-not OpenBLAS}"
    continue
  fi
  for threads in 1 2; do
    once "$wanted, $threads thread(s)" OPENBLAS_CORETYPE=$wanted OMP_NUM_THREADS=$threads OPENBLAS_NUM_THREADS=$threads -- "$@"
  done
done
echo "$runs runs, $failed failed"
[ $failed = 0 ]
