#!/usr/bin/env bash
# What the launchers start on every host: the program as launchers/local.sh runs it, in the environment of
# ~/.welfare_env (lines NAME=value, for tokens).
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
if [ -f ~/.welfare_env ]; then
  chmod 600 ~/.welfare_env
  set -a
  # shellcheck disable=SC1090
  source ~/.welfare_env
  set +a
fi
exec bash "$here/local.sh" "$@"
