# shellcheck shell=bash
# Shared by all launchers, which source it through _env.sh or _hosts.sh.
#
# --dry-run, anywhere among the arguments, prints every command instead of running it.

# shellcheck disable=SC2034 # the launchers use it
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
dry=
words=()
for word; do
  if [ "$word" = --dry-run ]; then dry=1; else words+=("$word"); fi
done
set -- ${words[@]+"${words[@]}"}

say() { printf '%s: %s\n' "${0##*/}" "$1" >&2; }

# The words as a shell would read them again.
quoted() {
  local word out=()
  for word; do
    if [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then out+=("$word"); else out+=("${word@Q}"); fi
  done
  printf '%s' "${out[*]}"
}

run() {
  if [ -n "$dry" ]; then
    quoted "$@"
    echo
  else
    "$@"
  fi
}

# As `run`, and the last thing that a launcher does.
become() {
  if [ -n "$dry" ]; then run "$@"; else exec "$@"; fi
}

# refuse_address ARGUMENTS: a workdir that the program would refuse, before machines or packages are asked for
refuse_address() {
  local word before=
  for word; do
    [[ $before != --workdir ]] || word=--workdir=$word
    [[ ! $word =~ ^--workdir=[A-Za-z][A-Za-z0-9+.-]*:// ]] ||
      die "$word: a run is written to a folder, not to an address: mount the bucket (with gcsfuse, for example) and name the folder"
    before=$word
  done
}
