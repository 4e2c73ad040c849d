#!/bin/bash

join_timeout_s=300
container=()
agent=(/opt/python -P -m torch.distributed.run --rdzv-backend=c10d --nnodes=2 --nproc-per-node=2 --max-restarts=0 --monitor-interval=0.1 --no-python)
worker=(/opt/python -P -m trainer.worker --run-dir '/runs/my run' --sha256 SHA256)

# srun runs this once on each node. What is above this line is this run's own.
set -euo pipefail

if [ "${#agent[@]}" -gt 0 ]; then
    is_host=0
    if [ "$SLURMD_NODENAME" = "$GALLEY_HEAD" ]; then
        is_host=1
        agent+=(--local-addr="${GALLEY_RENDEZVOUS%:*}") # where the ranks meet; not what the host calls itself
    fi
    agent+=(
        --rdzv-endpoint="$GALLEY_RENDEZVOUS"
        --rdzv-id="$SLURM_JOB_ID-$GALLEY_ATTEMPT"
        --rdzv-conf="is_host=$is_host,join_timeout=$join_timeout_s"
    )
fi
exec "${container[@]}" "${agent[@]}" "${worker[@]}"
