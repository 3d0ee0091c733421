# shellcheck shell=bash
# Shared by the launchers that start the program on other machines; each begins with `source .../_hosts.sh`.
#
# Settings are environment variables.
# WELFARE_SECRETS   a file of lines NAME=value (HF_TOKEN=...) that only you can read; it is copied as a file to every
#                   host's ~/.welfare_env, so no secret is ever on a command line
# WELFARE_SETUP     a command that every host runs before anything else, such as a mount
# WELFARE_RESTARTS  how often an interrupted run is started again (default 100)

# shellcheck source=launchers/_common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"
# shellcheck disable=SC2034 # what is set here is used by the launchers
{
  restarts=${WELFARE_RESTARTS:-100}
  port=${PORT:-8476}
}

die() {
  say "$1"
  exit 2
}
refuse_address "$@"

# need NAME WHAT: an environment variable that must be set
need() { [ -n "${!1:-}" ] || die "set $1: $2"; }

# Whether a run that ended so can go on: 75 says that everything is saved, 255 that ssh lost the host, above 128 that a
# signal ended it. 1 and 2 (a mistake, bad input) would only happen again, and 130 was somebody's Ctrl-C.
can_go_on() { (($1 == 75 || ($1 > 128 && $1 != 130))); }

# persist SECONDS COMMAND ...: again after so long, as often as an interrupted run is started again; then exits.
persist() {
  local pause=$1 attempt status
  shift
  for ((attempt = 0; ; attempt++)); do
    status=0
    "$@" || status=$?
    ((status)) || exit 0
    can_go_on "$status" || exit "$status"
    ((attempt < restarts)) || die "interrupted $restarts times: not started again"
    say "interrupted (status $status): starting again"
    sleep "$pause"
  done
}

# The checkout as one file, without what belongs to this machine.
archive=${TMPDIR:-/tmp}/welfare_jax.tar.gz
pack() {
  run tar -czf "$archive" -C "$root" --exclude=./.git --exclude=./.venv --exclude=./runs --exclude=./logs \
    --exclude=__pycache__ .
}

# unpack ARGUMENTS: the command of one host, as one string
unpack() {
  printf '%s' "${WELFARE_SETUP:+{ $WELFARE_SETUP; \} && }mkdir -p welfare_jax && tar -xzf welfare_jax.tar.gz -C welfare_jax && "
  printf '%s' "${environment:+$environment }bash welfare_jax/launchers/host.sh $(quoted "$@")"
}
