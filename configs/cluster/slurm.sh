#!/usr/bin/env bash
# Start configs/cluster/cluster.yaml under SLURM. Parsed (bash -n), not run on GPUs yet.
#
#   sbatch configs/cluster/slurm.sh [more arguments of es-lightning fit]
#
# Submit it from the folder that holds configs/ and will hold runs/, on a file system that all machines share.
# `--ckpt_path last` begins a run that has nothing to go on with, and resumes any other: a requeued job goes
# on where it was.
#
# Lightning insists: --ntasks-per-node is trainer.devices, --nodes is trainer.num_nodes, and the job is called
# neither bash nor interactive. Every task has to see all GPUs of its machine: no --gpus-per-task.
#SBATCH --job-name=es-lightning
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --mem=0
#SBATCH --time=08:00:00
# SIGTERM to all ranks this many seconds before the time is up: rank 0 writes a checkpoint, all end with 143.
#SBATCH --signal=TERM@300
# A lost machine or a preemption puts the job back into the queue; after the time limit, the last lines do.
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

# SQLite is not safe on a network file system: name a server, or add --trainer.logger false.
# export MLFLOW_TRACKING_URI=http://...

# The first rank to end leaves the others 300 s, to write the checkpoint after a signal, to notice that it has
# died, or to export the model at the end. A rank that hangs is killed then.
srun --kill-on-bad-exit=0 --wait=300 \
  es-lightning fit -c configs/cluster/cluster.yaml --ckpt_path last "$@"
code=$?

# 143: stopped by SIGTERM. 1: a rank failed or was missing. 137: a rank was killed. 0 is the end; anything
# else, such as 2, a setting that cannot be used, needs a look.
case $code in
  1 | 137 | 143)
    if ((${SLURM_RESTART_COUNT:-0} < ${MAX_RESTARTS:-20})); then
      scontrol requeue "$SLURM_JOB_ID"
    fi
    ;;
esac
exit "$code"
