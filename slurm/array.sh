# Slurm runs this once for each run of the array, on the first node of that run.
set -euo pipefail

mapfile -t runs <"$list"
exec bash "${runs[SLURM_ARRAY_TASK_ID]}/plan/job.sh"
