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
