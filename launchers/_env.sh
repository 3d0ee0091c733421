# shellcheck shell=bash
# Shared by the launchers: finds or makes the virtual environment and installs this checkout into it, once.
#
#   prepare EXTRAS    EXTRAS is empty or names from setup.cfg ("test", "cuda,test"); sets $python. With --dry-run it only
#                     prints what it would install
#
# The environment is the active one (venv or conda), otherwise .venv in the repository root, made with $PYTHON or
# python3. A stamp inside the environment says what was installed; while it fits, a launch costs one start of Python.

# shellcheck source=launchers/_common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"
python=

die() {
  say "$1"
  exit 1
}

version_of() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }

# What an installation depends on besides the extras.
key_of() { echo "$1 $(cat "$root/setup.cfg" "$root/pyproject.toml" | cksum) $root"; }

# refuse_old NAME VERSION
refuse_old() {
  local major minor
  IFS=. read -r major minor _ <<<"$2"
  ((major > 3 || (major == 3 && minor >= 11))) ||
    die "welfare_jax needs Python 3.11 or later and $1 is $2: activate a newer environment or set PYTHON=/path/to/python"
}

# make_venv DIR
make_venv() {
  local base=${PYTHON:-python3} version
  version=$(version_of "$base") || die "$base does not start: install Python 3.11 or later, or set PYTHON=/path/to/python"
  refuse_old "$base" "$version"
  say "making $1 with Python $version"
  "$base" -m venv --clear "$1" >&2 ||
    die "$base could not make $1: on Debian and Ubuntu install python3-venv, or activate an environment of your own"
}

# An extra "cuda" that was detected, not asked for, must fit the driver: CUDA 13 starts with the 580 series.
fit_driver() {
  local driver
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1) || driver=
  driver=${driver%%.*}
  if [[ $driver =~ ^[0-9]+$ ]] && ((driver < 580)); then echo cuda12; else echo cuda; fi
}

# pip only warns of an extra that does not exist, and the program would then run without its accelerator.
refuse_unknown() {
  local names name
  names=$(sed -n '/^\[options.extras_require\]/,$ s/^\([a-z0-9]*\) =$/\1/p' "$root/setup.cfg")
  for name in ${1//,/ }; do
    grep -Fqx -e "$name" <<<"$names" || die "there is no extra $name, choose from: ${names//$'\n'/, }"
  done
}

# install EXTRAS
install() {
  local quiet=1
  if [ -t 2 ]; then quiet=; fi
  cd -- "$root" || return 1
  if "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null 2>&1; then
    "$python" -m pip install ${quiet:+--quiet} --no-input --disable-pip-version-check --editable ".${1:+[$1]}"
  elif command -v uv >/dev/null; then
    uv pip install ${quiet:+--quiet} --python "$python" --editable ".${1:+[$1]}"
  else
    say "$python has neither pip nor ensurepip, and there is no uv"
    return 1
  fi
}

prepare() {
  local extras=$1 wanted=$1 venv own='' version key stamp known=''
  if [ -n "${VIRTUAL_ENV:-}" ]; then
    venv=$VIRTUAL_ENV
  elif [ -n "${CONDA_PREFIX:-}" ] && [ "${CONDA_DEFAULT_ENV:-}" != base ]; then
    venv=$CONDA_PREFIX
  else
    venv=$root/.venv
    own=1
  fi
  python=$venv/bin/python
  stamp=$venv/.welfare_jax-installed

  # Two launches at once must not install over each other; where flock is missing, neither waits.
  lock() {
    exec 9<"$root/setup.cfg"
    if command -v flock >/dev/null && ! flock --nonblock 9; then
      say "waiting for another launch that is installing into $venv"
      flock 9 || true
    fi
  }
  fits() { [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" = "$key" ] && grep -Fqx -e "[$extras]" "$stamp"; }
  choose() {
    if [ "$extras" = cuda ] && [ -z "${WELFARE_EXTRAS+set}" ]; then
      wanted=$(fit_driver)
    fi
    refuse_unknown "$wanted"
  }

  if [ -n "$dry" ]; then
    version=$(version_of "$python") || run "${PYTHON:-python3}" -m venv "$venv"
    key=$(key_of "$version")
    if ! fits; then
      choose
      run "$python" -m pip install --editable "$root${wanted:+[$wanted]}"
    fi
    return
  fi
  if ! version=$(version_of "$python"); then
    [ -n "$own" ] || die "the active environment $venv has no working bin/python: make it anew or deactivate it"
    lock
    version=$(version_of "$python") || make_venv "$venv" # the launch before this one may have made it meanwhile
    version=$(version_of "$python") || die "$venv was made but its Python does not start: remove it and try again"
  fi
  refuse_old "$python" "$version"
  key=$(key_of "$version")
  if ! fits; then
    lock
  fi
  if ! fits; then
    if [ -n "$own" ] && ! "$python" -m pip --version >/dev/null 2>&1; then
      make_venv "$venv" # what an interrupted first launch left
      version=$(version_of "$python") || die "$venv was made but its Python does not start: remove it and try again"
      key=$(key_of "$version")
    fi
    if [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" = "$key" ]; then
      known=$(tail -n +2 "$stamp")
    fi
    choose
    rm -f -- "$stamp"
    say "installing welfare_jax${wanted:+[$wanted]} into $venv (minutes the first time)"
    (install "$wanted") >&2 || die "the installation failed, pip's message is above: nothing is recorded, run the same command again"
    printf '%s\n' "$key" '[]' "[$extras]" ${known:+"$known"} | awk '!seen[$0]++' >"$stamp.new"
    mv -f -- "$stamp.new" "$stamp"
  fi
  exec 9<&-
}
