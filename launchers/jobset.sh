#!/usr/bin/env bash
# Runs the program on Kubernetes as a JobSet, one pod a host, on a TPU slice of GKE or on GPU nodes. Kubernetes starts
# all pods again after an interruption; a mistake or bad input (status 1 or 2) ends the JobSet.
#
#   NAME=main SOURCE=https://HOST/REPOSITORY CLAIM=runs ACCELERATOR=v6e TOPOLOGY=4x8 \
#     bash launchers/jobset.sh [--dry-run] --config=... --workdir=/runs/main [--config.field=value ...]
#   NAME=main SOURCE=... CLAIM=runs ACCELERATOR=nvidia-h100-80gb HOSTS=2 bash launchers/jobset.sh ...
#
# Needs the JobSet controller (v0.6 or later). --dry-run prints what would be applied.
# SOURCE        where pods clone this repository from; COMMIT what of it (default: the checkout's HEAD)
# CLAIM         a ReadWriteMany volume claim, seen as /runs by every pod
# ACCELERATOR   v5e, v5p, v6e with TOPOLOGY=4x8 and CHIPS a host (default 4); or GKE's name of a GPU with HOSTS, GPUS (8)
# SECRET        a Kubernetes secret whose keys become environment variables (HF_TOKEN)
# IMAGE         a Python image with git (default python:3.12); NAMESPACE
set -euo pipefail
# shellcheck source=launchers/_hosts.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_hosts.sh"

need NAME 'a name for the JobSet'
need SOURCE 'the address from which pods can clone this repository'
need CLAIM 'a volume claim that all pods can mount, for the workdir'
need ACCELERATOR 'v5e, v5p, v6e or a GPU such as nvidia-h100-80gb'
commit=${COMMIT:-$(git -C "$root" rev-parse HEAD)}
case $ACCELERATOR in
  v5e) kind=tpu-v5-lite-podslice ;;
  v5p) kind=tpu-v5p-slice ;;
  v6e) kind=tpu-v6e-slice ;;
  *) kind= ;;
esac
if [ -n "$kind" ]; then
  need TOPOLOGY 'the shape of the slice, for example TOPOLOGY=4x8'
  [[ $TOPOLOGY =~ ^[0-9]+(x[0-9]+)*$ ]] || die "TOPOLOGY=$TOPOLOGY: chips along each side, for example 4x8"
  count=${CHIPS:-4} resource=google.com/tpu extras=tpu
  hosts=$((${TOPOLOGY//x/*} / count))
  nodes="cloud.google.com/gke-tpu-accelerator: $kind
              cloud.google.com/gke-tpu-topology: $TOPOLOGY"
  join=(--config.distributed.coordinator=auto)
else
  count=${GPUS:-8} resource=nvidia.com/gpu extras=cuda
  hosts=${HOSTS:-1}
  nodes="cloud.google.com/gke-accelerator: $ACCELERATOR"
  join=("--config.distributed.coordinator=$NAME-host-0-0.$NAME:$port" "--config.distributed.processes=$hosts")
  index=" --config.distributed.process=\$JOB_COMPLETION_INDEX"
fi
# As a YAML block every line keeps its indentation; the words are quoted for the pod's shell.
manifest="apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
spec:
  failurePolicy:
    maxRestarts: $restarts
    rules:
      - action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: host
      replicas: 1
      template:
        spec:
          completions: $hosts
          parallelism: $hosts
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes: {containerName: main, operator: In, values: [1, 2]}
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 120
              nodeSelector:
                ${nodes//              /                }
              tolerations: [{key: $resource, operator: Exists, effect: NoSchedule}]
              volumes:
                - name: runs
                  persistentVolumeClaim: {claimName: $CLAIM}
                - name: memory
                  emptyDir: {medium: Memory}
              containers:
                - name: main
                  image: ${IMAGE:-python:3.12}
                  resources:
                    limits: {$resource: $count}
                  volumeMounts:
                    - {name: runs, mountPath: /runs}
                    - {name: memory, mountPath: /dev/shm}
                  env:
                    - {name: WELFARE_EXTRAS, value: $extras}
                    - {name: PYTHONUNBUFFERED, value: \"1\"}${SECRET:+
                  envFrom:
                    - secretRef: {name: $SECRET\}}
                  command:
                    - bash
                    - -c
                    - |
                      set -e${WELFARE_SETUP:+
                      $WELFARE_SETUP}
                      git init -q /welfare_jax && cd /welfare_jax
                      git fetch -q --depth=1 $(quoted "$SOURCE") $commit && git checkout -q FETCH_HEAD
                      exec bash launchers/host.sh $(quoted "$@" "${join[@]}")${index:-}"
if [ -n "$dry" ]; then
  printf '%s\n' "$manifest"
  exit
fi
kube=(kubectl ${NAMESPACE:+--namespace="$NAMESPACE"})
label=jobset.sigs.k8s.io/jobset-name=$NAME,batch.kubernetes.io/job-completion-index=0
"${kube[@]}" apply -f - <<<"$manifest"
# The first pod's log, and that of the one that takes its place, until the JobSet has ended.
while ended=$("${kube[@]}" get jobset "$NAME" -o jsonpath='{.status.terminalState}') && [ -z "$ended" ]; do
  "${kube[@]}" logs --follow --ignore-errors --selector "$label" --tail=-1 2>/dev/null || true
  sleep 5
done
say "$NAME: $ended"
[ "$ended" = Completed ]
