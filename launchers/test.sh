#!/usr/bin/env bash
# Runs the whole test suite, slow tests included, in parallel; sets the environment up on the first call.
#
#   bash launchers/test.sh [--dry-run] [pytest arguments, paths relative to the repository root]
#
# JAX_PLATFORMS   default cpu: the reference values are float32 on the CPU
# PYTHON          interpreter for a new .venv (default python3); an active environment is used as it is
set -euo pipefail
# shellcheck source=launchers/_env.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_env.sh"

prepare test
cd -- "$root"

# nproc obeys OMP_NUM_THREADS, which says nothing about the number of workers.
cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
# torch is only a reference here, and one worker runs per core already.
become env HF_HUB_OFFLINE=1 JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}" OMP_NUM_THREADS=1 \
  "$python" -m pytest -n "$((cores < 4 ? cores : 4))" --dist worksteal "$@"
