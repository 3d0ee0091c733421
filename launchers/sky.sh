#!/usr/bin/env bash
# Runs the program through SkyPilot as a managed job, on whichever cloud has the machines. SkyPilot starts it again
# after a preemption.
#
#   ACCELERATORS=H100:8 NODES=2 BUCKET=gs://mine bash launchers/sky.sh [--dry-run] --config=... --workdir=/runs/main
#   ACCELERATORS=tpu-v6e-32 BUCKET=gs://mine bash launchers/sky.sh ...
#
# ACCELERATORS   as SkyPilot names them; NODES how many machines (GPUs; default 1)
# BUCKET         where /runs of every host lies
# NAME           of the job (default welfare-jax); SPOT=1 for spot machines
# SECRETS        names of environment variables to hand over ("HF_TOKEN WANDB_API_KEY"); their values stay here
# The others: launchers/_hosts.sh
set -euo pipefail
# shellcheck source=launchers/_hosts.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_hosts.sh"

need ACCELERATORS 'for example ACCELERATORS=H100:8 or tpu-v6e-32'
need BUCKET 'a bucket for the runs, for example BUCKET=gs://mine'
case $ACCELERATORS in
  tpu-*) task=launchers/sky_tpu.yaml ;;
  *) task=launchers/sky_gpu.yaml ;;
esac
options=()
for name in ${SECRETS:-}; do options+=(--secret "$name"); done
cd -- "$root"
run sky jobs launch --yes --name "${NAME:-welfare-jax}" --gpus "$ACCELERATORS" --num-nodes "${NODES:-1}" \
  ${SPOT:+--use-spot} --env "BUCKET=$BUCKET" --env "SETUP=${WELFARE_SETUP:-true}" --env "ARGUMENTS=$(quoted "$@")" \
  ${options[@]+"${options[@]}"} "$task"
