#!/bin/bash
# Eight workers of one study, each a job of its own, once the study is there:
#     STUDY_STORAGE="$(< ~/.study_storage)" python worker.py --trials 0
#     sbatch slurm_workers.sh
# The storage's URL is read from a file that only you can read (chmod 600).
#SBATCH --job-name=hypergrad
#SBATCH --array=0-7
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --gpus-per-task=1
#SBATCH --time=04:00:00
#SBATCH --output=worker-%A-%a.log
set -euo pipefail

STUDY_STORAGE="$(< "${STUDY_STORAGE_FILE:-$HOME/.study_storage}")"
export STUDY_STORAGE
export OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK"

cd "$SLURM_SUBMIT_DIR"
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" python worker.py --trials 96
