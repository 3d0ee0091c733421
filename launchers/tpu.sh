#!/usr/bin/env bash
# Runs the program on a Cloud TPU slice of any size: asks for it as a queued resource, installs the package on every
# host, starts the same command on all of them, shows the first one's output, and after a preemption does so again.
#
#   TPU=NAME ACCELERATOR=v6e-32 ZONE=us-east5-b bash launchers/tpu.sh [--dry-run] --config=... --workdir=/mnt/runs/main
#
# The workdir must be the same folder on all hosts: mount one with WELFARE_SETUP (a Filestore share, gcsfuse). The slice
# is kept when the run ends; `... bash launchers/tpu.sh --delete` gives it back.
# ACCELERATOR   v5e-8, v5p-16, v6e-32, ...: the names that --config.topology takes
# RUNTIME       software version (default: the one for the accelerator)
# SPOT          1 for a spot slice, which is cheaper and may be taken away; PROJECT if not gcloud's own
# The others: launchers/_hosts.sh
set -euo pipefail
# shellcheck source=launchers/_hosts.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_hosts.sh"

need TPU 'a name for the slice'
need ACCELERATOR 'for example ACCELERATOR=v6e-32'
need ZONE 'for example ZONE=us-east5-b'
case $ACCELERATOR in
  v5e-*) type=v5litepod-${ACCELERATOR#*-} runtime=v2-alpha-tpuv5-lite ;;
  v5p-*) type=$ACCELERATOR runtime=v2-alpha-tpuv5 ;;
  v6e-*) type=$ACCELERATOR runtime=v2-alpha-tpuv6e ;;
  v4-*) type=$ACCELERATOR runtime=tpu-ubuntu2204-base ;;
  *) die "ACCELERATOR=$ACCELERATOR: name a slice such as v5e-8, v5p-16 or v6e-32" ;;
esac
where=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})
queue=(gcloud compute tpus queued-resources)
machine=(gcloud compute tpus tpu-vm)
# The images bring Python 3.10; the package needs a later one.
python='command -v python3.11 >/dev/null || { sudo apt-get -qq update && sudo apt-get -qq install -y python3.11-venv; }'
WELFARE_SETUP=${WELFARE_SETUP:+$WELFARE_SETUP; }$python
environment='PYTHON=python3.11 WELFARE_EXTRAS=tpu'

ask() {
  run "${queue[@]}" create "$TPU" --node-id="$TPU" "${where[@]}" --accelerator-type="$type" \
    --runtime-version="${RUNTIME:-$runtime}" ${SPOT:+--spot}
}
give_back() { run "${queue[@]}" delete "$TPU" "${where[@]}" --force --quiet; }
state() { "${queue[@]}" describe "$TPU" "${where[@]}" --format='value(state.state)' 2>/dev/null || echo NONE; }

# Until the slice is there, however it was lost.
obtain() {
  local now
  if [ -n "$dry" ]; then
    ask
    return
  fi
  while now=$(state) && [ "$now" != ACTIVE ]; do
    case $now in
      NONE) ask || return ;;
      FAILED | SUSPENDED) give_back || return ;;
      *) say "$TPU is $now" && sleep 30 ;;
    esac
  done
}

send() {
  pack
  run "${machine[@]}" scp "$archive" "$TPU:welfare_jax.tar.gz" "${where[@]}" --worker=all
  if [ -n "${WELFARE_SECRETS:-}" ]; then
    run "${machine[@]}" scp --scp-flag=-p "$WELFARE_SECRETS" "$TPU:.welfare_env" "${where[@]}" --worker=all
  fi
}

# gcloud tells failure, not its status, so every host's last line is its own.
once() {
  local command logs=logs/$TPU reader status=0
  command="$(unpack "$@" --config.distributed.coordinator=auto); echo \"status \$?\""
  [ -n "$dry" ] || { mkdir -p "$logs" && rm -f "$logs"/*.log && touch "$logs/0.log"; }
  if [ -z "$dry" ]; then
    tail -n +1 -F "$logs/0.log" 2>/dev/null &
    reader=$!
  fi
  run "${machine[@]}" ssh "$TPU" "${where[@]}" --worker=all --output-directory="$logs" --command="$command" || status=255
  [ -z "$dry" ] || return 0
  sleep 1
  kill "$reader" 2>/dev/null || true
  # A status that cannot be gone on from decides, then any other that is not 0, then gcloud's own failure.
  local word found worst=0
  while read -r word found; do
    if [ "$word" = status ] && ((found)) && { ((worst == 0)) || ! can_go_on "$found"; }; then worst=$found; fi
  done < <(grep -hE '^status [0-9]+\s*$' "$logs"/*.log | tr -d '\r')
  return "$((worst ? worst : status))"
}

if [ "${1:-}" = --delete ]; then
  give_back
  exit
fi

attempt() {
  obtain || exit
  send || return 255
  once "$@"
}

persist 30 attempt "$@"
