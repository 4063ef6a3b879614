#!/bin/bash
# An array job: each task is one worker on one GPU. Change the lines marked <--, then
#
#     sbatch workers/slurm.sh
#
#SBATCH --job-name=kdecay
#SBATCH --array=0-7                 # <-- how many workers
#SBATCH --gres=gpu:1                # for one run on N GPUs: gpu:N, and --devices-per-run N below
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@150         # before the limit; longer than workers.grace_seconds (120)
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=kdecay-%A_%a.log

set -euo pipefail

kdecay=$HOME/kdecay-search/.venv/bin/kdecay              # <-- where kdecay is installed
export KDECAY_CHECKPOINTS=/shared/kdecay/checkpoints     # <-- a folder that all nodes see
export KDECAY_STORAGE_FILE=$HOME/.kdecay-storage         # the database's URL; chmod 600

# Slurm signals only this shell. Pass the signal on, wait for the worker to write its checkpoint, and
# requeue the job. A worker with --drain ends by itself when no work is left.
requeue() {
    kill -s USR1 "$worker"
    wait "$worker"
    scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    exit
}
trap requeue USR1

# scancel's SIGTERM reaches the worker, too. Only wait: a second signal would kill it.
trap 'wait "$worker"; exit' TERM

"$kdecay" worker --device auto --drain &
worker=$!
wait "$worker"
