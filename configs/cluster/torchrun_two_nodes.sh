#!/usr/bin/env bash
# Start configs/cluster/cluster.yaml with torchrun: this same command on both machines. Parsed (bash -n), not
# run on GPUs yet.
#
#   configs/cluster/torchrun_two_nodes.sh FIRST_MACHINE [more arguments of es-lightning fit]
#
# FIRST_MACHINE is the name or address of one of the two. Start both in the same folder of a file system that
# they share: journal and checkpoints are there for whichever machine holds rank 0 after a restart.
# `--ckpt_path last` begins a run that has nothing to go on with, and resumes any other; so a restart, by
# torchrun or by hand, is the same command again.
set -euo pipefail
first=${1:?name the first machine, as in: $0 node-1}
shift

# After a signal to torchrun, rank 0 has this many seconds to write its checkpoint before it is killed.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-180}
# A store of its own for every restart: a shared one still holds the addresses of the ranks that died.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
# SQLite is not safe on a network file system: name a server, or add --trainer.logger false.
# export MLFLOW_TRACKING_URI=http://...
# Where a machine has several networks: the interface that the others can reach.
# export GLOO_SOCKET_IFNAME=... NCCL_SOCKET_IFNAME=...

exec torchrun \
  --nnodes 2 \
  --nproc-per-node 8 \
  --max-restarts 3 \
  --rdzv-backend c10d \
  --rdzv-endpoint "$first:${PORT:-29400}" \
  --rdzv-id "${RUN_ID:-es-lightning}" \
  -m es_lightning fit -c configs/cluster/cluster.yaml --ckpt_path last "$@"
