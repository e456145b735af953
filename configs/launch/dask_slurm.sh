#!/bin/bash
# A conversion by a Dask cluster over several machines under Slurm: a task of each machine
# runs workers, the first one the scheduler and the conversion too.
#
#   sbatch --nodes=4 configs/launch/dask_slurm.sh --manifest=/shared/videos.csv \
#       --out=/shared/records --short_side=256
#
# Submit it in the project's directory. All machines must see it, the media and --out
# under the same paths. A worker that ends is started again, and so is the scheduler; of a
# job that ends before its time, the same command goes on.
#SBATCH --job-name=xdc_tf_convert
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --mem=0
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

HOST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# By the job, so that two jobs on a machine do not meet.
ADDRESS="tcp://$HOST:$((20000 + SLURM_JOB_ID % 20000))"
PYTHON=${PYTHON:-python}
# For each worker a process that decodes, of 2 GiB at most, and the worker itself.
MEMORY=$((5 * 1024 * 1024 * 1024 / 2))
export ADDRESS PYTHON MEMORY

# What every task runs.
cluster() {
  keep() {
    while ! "$@"; do sleep 5; done
  }
  if [[ $SLURM_PROCID == 0 ]]; then
    keep "$PYTHON" -m distributed.cli.dask_scheduler --port="${ADDRESS##*:}" \
      --no-dashboard &
  fi
  keep "$PYTHON" -m distributed.cli.dask_worker "$ADDRESS" --no-dashboard \
    --nworkers="${SLURM_CPUS_PER_TASK:-1}" --nthreads=1 --memory-limit=0 \
    --resources="MEMORY=$MEMORY" --local-directory="${TMPDIR:-/tmp}" &
  if [[ $SLURM_PROCID == 0 ]]; then
    code=0
    "$PYTHON" -m data_prep.convert --dask="$ADDRESS" "$@" || code=$?
    exit "$code"
  fi
  wait
}
export -f cluster

# The end of the first task, which converts, is that of the others.
exec srun --kill-on-bad-exit=0 --wait=1 --export=ALL bash -c 'cluster "$@"' cluster "$@"
