#!/bin/bash
#SBATCH --job-name=my_run
#SBATCH --output="/runs/my run/logs/slurm-%j.log"
#SBATCH --open-mode=append
#SBATCH --export=ALL
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=6
#SBATCH --constraint="[new*2&old*1]"
#SBATCH --no-kill
#SBATCH --signal=B:USR1@120
#SBATCH --requeue

run_dir='/runs/my run'
first_attempt=1
nodes=2
requeue=1
spare_feature=old
step_options=(--cpus-per-task=6)

# Slurm runs this on the first node of the job. What is above this line is this run's own.
set -euo pipefail

# Exit codes that reach Slurm, and with it whatever waits for this job (launchers/slurm/states.py).
readonly PREEMPTED=4 CANCELLED=5 NOT_SHARED=66 REQUEUE=99

if ! [ -r "$run_dir/plan/env.sh" ]; then
    echo "galley: $(hostname) cannot read $run_dir/plan: it must be on a file system that all nodes share"
    exit "$NOT_SHARED"
fi
# shellcheck source=/dev/null
. "$run_dir/plan/env.sh"

# The ranks look for this file where they log, save a checkpoint, and end.
# shellcheck disable=SC2317  # the trap calls it
ask_to_save() {
    asked_to_save=1
    touch "$run_dir/PREEMPT"
}
asked_to_save=
trap ask_to_save USR1

# The first attempt, from first_attempt on, that nothing has been started for: Slurm's restarts of a
# job and the relaunches on spare nodes count alike.
next_attempt() {
    attempt=$first_attempt
    while [ -e "$run_dir/logs/attempt-$attempt/launcher.log" ]; do attempt=$((attempt + 1)); done
}

# The nodes of the job that still live, one a line, spare ones of another kind last. Slurm takes those
# that failed out of it.
living_nodes() {
    local node living spare=()
    living=$(scontrol show hostnames "$(squeue --noheader --job="$SLURM_JOB_ID" --format=%N)")
    for node in $living; do
        if is_spare "$node"; then spare+=("$node"); else echo "$node"; fi
    done
    [ "${#spare[@]}" -eq 0 ] || printf '%s\n' "${spare[@]}"
}

is_spare() {
    [ -n "$spare_feature" ] || return 1
    [[ $(scontrol show node --oneliner "$1") =~ \ ActiveFeatures=([^ ]*,)?"$spare_feature"[,\ ] ]]
}

# The address by which Slurm itself reaches a node.
address_of() {
    scontrol show node --oneliner "$1" | sed -n 's/^.* NodeAddr=\([^ ]*\) .*$/\1/p'
}

# Run the ranks on the first `nodes` living nodes; leaves their exit code in `status`.
run_attempt() {
    local living chosen logs=$run_dir/logs/attempt-$attempt
    mapfile -t living < <(living_nodes)
    chosen=$(IFS=, && echo "${living[*]:0:nodes}")
    GALLEY_HEAD=${living[0]}
    GALLEY_RENDEZVOUS=$(address_of "$GALLEY_HEAD"):$((20000 + SLURM_JOB_ID % 10000))
    GALLEY_ATTEMPT=$attempt
    export GALLEY_HEAD GALLEY_RENDEZVOUS GALLEY_ATTEMPT
    if [ "$attempt" -gt 1 ]; then export GALLEY_RESUME=1; fi
    rm -f "$run_dir/PREEMPT"
    mkdir -p "$logs"
    printf '%s\n' "${living[@]}" >"$logs/nodes"
    srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --nodelist="$chosen" \
        --kill-on-bad-exit=1 "${step_options[@]}" bash "$run_dir/plan/node.sh" >>"$logs/launcher.log" 2>&1 &
    wait_for $!
}

# A trapped signal ends `wait` before the process ends; asked again, it tells the true exit code.
wait_for() {
    status=0
    wait "$1" || status=$?
    while [ -n "$asked_to_save" ]; do
        asked_to_save=
        status=0
        wait "$1" || status=$?
    done
}

# How this attempt says that it ended; nothing where it left no result.
state_of_attempt() {
    local result
    result=$(tr -d ' \n' <"$run_dir/result.json" 2>/dev/null) || return 0
    if [[ $result =~ \"attempts\":${attempt}[,}] && $result =~ \"state\":\"([a-z]+)\" ]]; then
        echo "${BASH_REMATCH[1]}"
    fi
}

# Whether nodes failed of which spare ones can take the place; their names are kept for `resume`.
replace_failed_nodes() {
    local now failed
    mapfile -t now < <(living_nodes)
    failed=$(printf '%s\n' "${now[@]}" | grep -vxF -f - "$run_dir/logs/attempt-$attempt/nodes") || return 1
    printf '%s\n' "$failed" >>"$run_dir/failed_nodes"
    [ "${#now[@]}" -ge "$nodes" ]
}

cd "$SLURM_SUBMIT_DIR"
next_attempt
run_attempt
while [ "$status" -ne 0 ] && [ -z "$(state_of_attempt)" ] && replace_failed_nodes; do
    attempt=$((attempt + 1))
    run_attempt
done

case $(state_of_attempt) in
    succeeded) exit 0 ;;
    cancelled) exit "$CANCELLED" ;;
    preempted)
        if [ -n "$requeue" ]; then
            scontrol requeue "$SLURM_JOB_ID" || true
            exit "$REQUEUE" # also requeues, where the site has RequeueExit=99
        fi
        exit "$PREEMPTED"
        ;;
esac
exit $((status ? status : 1)) # ranks that end without a result have failed
