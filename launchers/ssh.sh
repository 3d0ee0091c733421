#!/usr/bin/env bash
# Runs the program on hosts that ssh reaches without a password, one process a host with all its accelerators.
#
#   HOSTS="me@a me@b" bash launchers/ssh.sh [--dry-run] --config=... --workdir=/shared/run [--config.field=value ...]
#
# The first host is process 0, whose output is shown; the others' goes to ./logs/HOST.log. The workdir must be the same
# folder for all of them. An interrupted run is started again on all hosts.
# HOSTS   names or addresses, with a user where ssh needs one
# PORT    a free port on the first host (default 8476); COORDINATOR its name among the hosts, if ssh's is another
# The others: launchers/_hosts.sh
set -euo pipefail
# shellcheck source=launchers/_hosts.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_hosts.sh"

need HOSTS 'the machines, for example HOSTS="me@a me@b"'
read -r -a hosts <<<"${HOSTS:-}"
first=${hosts[0]#*@}
ssh=(ssh -o BatchMode=yes -o ServerAliveInterval=15 -o ServerAliveCountMax=4)

send() {
  pack
  for host in "${hosts[@]}"; do
    run scp -q -o BatchMode=yes "$archive" "$host:welfare_jax.tar.gz"
    if [ -n "${WELFARE_SECRETS:-}" ]; then
      run scp -q -p -o BatchMode=yes "$WELFARE_SECRETS" "$host:.welfare_env"
    fi
  done
}

# start INDEX ARGUMENTS: a terminal, so that the program ends when the connection does
start() {
  local i=$1
  shift
  run "${ssh[@]}" -tt "${hosts[i]}" "$(unpack "$@" --config.distributed.coordinator="${COORDINATOR:-$first}:$port" \
    --config.distributed.processes="${#hosts[@]}" --config.distributed.process="$i")"
}

# Runs once on all hosts; the status is one that cannot be gone on from, if any host's is, else the last that is not 0.
once() {
  local i status worst=0 pids=()
  for ((i = ${#hosts[@]} - 1; i >= 0; i--)); do
    if [ -n "$dry" ]; then
      start "$i" "$@"
    elif ((i)); then
      start "$i" "$@" </dev/null >"logs/${hosts[i]}.log" 2>&1 &
      pids+=($!)
    else
      start "$i" "$@" </dev/null &
      pids+=($!)
    fi
  done
  for i in ${pids[@]+"${pids[@]}"}; do
    status=0
    wait "$i" || status=$?
    if ((status)) && { ((worst == 0)) || ! can_go_on "$status"; }; then worst=$status; fi
  done
  return "$worst"
}

[ -n "$dry" ] || mkdir -p logs
send
persist 10 once "$@"
