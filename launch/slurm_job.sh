#!/usr/bin/env bash
# What Slurm runs on the first node of a job that launch/slurm.sh submits. All arguments are stjax.train's.
# Slurm starts a copy of this file elsewhere, in the folder the job was submitted from.
set -euo pipefail

arguments=("$@")
if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then # a job a fold, each in a folder of its own
  for i in "${!arguments[@]}"; do
    if [[ ${arguments[i]} == --workdir=* ]]; then arguments[i]="${arguments[i]%/}/fold_$SLURM_ARRAY_TASK_ID"; fi
  done
  arguments+=("--config.fold=$SLURM_ARRAY_TASK_ID")
fi
tasks=${SLURM_NTASKS:-1}
if ((tasks > 1)); then export STJAX_DISTRIBUTED=1; fi # jax.distributed finds the rest in Slurm's variables
echo "job ${SLURM_JOB_ID:-?} on ${SLURM_JOB_NODELIST:-this node}: $tasks processes, start $((${SLURM_RESTART_COUNT:-0} + 1))"

# Before its time limit, Slurm sends SIGTERM to this shell alone; the run saves and exits 0, and is queued again.
stopping=no interrupted=no
srun --kill-on-bad-exit=1 "${STJAX_PYTHON:-python}" -m stjax.train "${arguments[@]}" &
step=$!
trap 'stopping=yes interrupted=yes; kill -TERM "$step" 2>/dev/null || true' TERM
while :; do # a trapped signal ends `wait` early, with a code that is not the step's
  interrupted=no
  wait "$step" && code=0 || code=$?
  if [[ $interrupted == no ]]; then break; fi
done
if [[ $stopping == yes && $code -eq 0 ]]; then
  echo "stopped before the time limit with everything saved; queued again"
  scontrol requeue "${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"
fi
exit "$code"
