#!/usr/bin/env bash
# Submits the program to Slurm, one process a GPU on all nodes; run it on a login node. The job is requeued when it is
# preempted or its time is over, and goes on from its newest checkpoint.
#
#   NODES=2 GPUS=8 bash launchers/slurm.sh [--dry-run] --config=... --workdir=/shared/run [--config.field=value ...]
#
# The checkout and the workdir must lie on storage that all nodes see. Process 0's output is followed; Ctrl-C stops the
# following, not the job.
# NODES, GPUS   how many, and GPUs of each (default 1, 8)
# SBATCH_...    Slurm's own variables (SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT) hold as always
# The others: launchers/_hosts.sh
set -euo pipefail
# shellcheck source=launchers/_hosts.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_hosts.sh"

nodes=${NODES:-1} gpus=${GPUS:-8} log=${LOG:-welfare_jax-%j.log}
if [ -n "${WELFARE_SECRETS:-}" ]; then run install -m 600 "$WELFARE_SECRETS" "$HOME/.welfare_env"; fi
program="bash $(quoted "$root/launchers/host.sh" "$@" --config.distributed.coordinator=auto)"
if [ -n "${WELFARE_SETUP:-}" ]; then program="{ $WELFARE_SETUP; } && $program"; fi

# --signal: SIGTERM two minutes before the end, to all processes. Every process sees all GPUs of its node and takes the
# one of its own number, so Slurm must not hide the others. The package is installed once, before they start.
job="#!/usr/bin/env bash
#SBATCH --job-name=welfare_jax --nodes=$nodes --ntasks-per-node=$gpus --gpus-per-node=$gpus --exclusive
#SBATCH --requeue --open-mode=append --signal=TERM@120 --output=$log
source $(quoted "$root/launchers/_env.sh") && prepare \"\${WELFARE_EXTRAS=cuda}\" || exit
export WELFARE_EXTRAS
srun --gpu-bind=none --kill-on-bad-exit=0 bash -c $(quoted "$program")
status=\$?
# As can_go_on in _hosts.sh.
if ((status == 75 || (status > 128 && status != 130))) && ((\${SLURM_RESTART_COUNT:-0} < $restarts)); then
  scontrol requeue \"\$SLURM_JOB_ID\"
fi
exit \$status"
if [ -n "$dry" ]; then
  printf 'sbatch <<END\n%s\nEND\n' "$job"
  exit
fi
number=$(sbatch --parsable <<<"$job")
number=${number%%;*}
say "job $number"
file=${log//%j/$number}
touch "$file"
exec tail -n +1 -F "$file"
