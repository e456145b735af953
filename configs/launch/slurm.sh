#!/bin/bash
# Pretraining over several machines under Slurm, one worker on each with all its GPUs:
#
#   sbatch --nodes=2 configs/launch/slurm.sh --config=configs/base.py \
#       --config.training.batch_size=512 --workdir=/shared/run --records=/shared/records
#
# Submit it in the project's directory, which all machines must see, as they must see
# the work directory. A worker that is lost ends the others with exit code 75, and the
# job is put back into the queue, ten times at most; it goes on from the last checkpoint.
#SBATCH --job-name=xdc_tf
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# In the order in which Slurm numbers the tasks.
HOSTS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | tr '\n' ' ')
# By the job, so that two jobs on a machine do not meet.
PORT=$((20000 + SLURM_JOB_ID % 20000))
export HOSTS PORT

# What every task runs.
worker() {
  local addresses="" host
  for host in $HOSTS; do
    addresses+=", \"$host:$PORT\""
  done
  export TF_CONFIG="{\"cluster\": {\"worker\": [${addresses#, }]}, \
\"task\": {\"type\": \"worker\", \"index\": $SLURM_PROCID}}"
  exec "${PYTHON:-python}" -m xdc_tf.cli.pretrain "$@"
}
export -f worker

code=0
srun --kill-on-bad-exit=0 --export=ALL bash -c 'worker "$@"' worker "$@" || code=$?
if [[ $code == 75 && ${SLURM_RESTART_COUNT:-0} -lt 10 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
