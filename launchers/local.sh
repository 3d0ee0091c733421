#!/usr/bin/env bash
# Runs the program on this machine, from any directory; sets the environment up on the first call.
#
#   bash launchers/local.sh [--dry-run] --config=configs/tiny_grpo.py --workdir=DIR [--config.field=value ...]
#
# A relative config path is looked up in the current directory, then in the repository root.
# WELFARE_EXTRAS   extras to install (cuda, cuda12, tpu, ...; empty for none); unset: cuda where there is an nvidia-smi
# PYTHON           interpreter for a new .venv (default python3); an active environment is used as it is
set -euo pipefail
# shellcheck source=launchers/_env.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_env.sh"
refuse_address "$@"

# PATH[:variant] as it is found from here
locate() {
  local file=${1%%:*}
  if [[ $file != /* && ! -e $file && -e $root/$file ]]; then
    printf '%s\n' "$root/$1"
  else
    printf '%s\n' "$1"
  fi
}

arguments=()
while (($#)); do
  case $1 in
    --config=*) arguments+=("--config=$(locate "${1#*=}")") ;;
    --config)
      arguments+=("$1")
      if (($# > 1)); then
        shift
        arguments+=("$(locate "$1")")
      fi
      ;;
    *) arguments+=("$1") ;;
  esac
  shift
done

if [ -n "${WELFARE_EXTRAS+set}" ]; then
  extras=$WELFARE_EXTRAS
elif command -v nvidia-smi >/dev/null; then
  extras=cuda
else
  extras=
fi
prepare "$extras"
# -P keeps a welfare_jax folder of the current directory from hiding this checkout.
become "$python" -P -m welfare_jax.main ${arguments[@]+"${arguments[@]}"}
