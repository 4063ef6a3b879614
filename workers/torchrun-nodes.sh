#!/bin/bash
# Trains one run on all nodes of a Slurm allocation, as the command of a study:
#
#     command = ["/shared/kdecay/torchrun-nodes.sh", "{nproc}", "train.py", "--epochs", "{epochs}", ...]
#
# srun starts torchrun on each node, and torchrun the processes there. The first argument is the number of
# processes on a node; {nproc} is what the worker's --devices-per-run says.

set -euo pipefail

processes=$1
shift
port=$((20000 + RANDOM % 20000))    # this node's; another one for each attempt

# srun does not take over --cpus-per-task by itself.
exec srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --kill-on-bad-exit=1 \
    ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
    torchrun --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="$processes" \
    --rdzv-backend=c10d --rdzv-endpoint="$(hostname):$port" --rdzv-id="$SLURM_JOB_ID-$port" "$@"
