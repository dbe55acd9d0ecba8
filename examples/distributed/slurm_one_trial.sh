#!/bin/bash
# One worker whose every trial is spread over two machines of four GPUs:
#     sbatch slurm_one_trial.sh
# The storage's URL is read from a file that only you can read (chmod 600).
#SBATCH --job-name=hypergrad-ranks
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=04:00:00
#SBATCH --output=ranks-%j.log
set -euo pipefail

STUDY_STORAGE="$(< "${STUDY_STORAGE_FILE:-$HOME/.study_storage}")"
export STUDY_STORAGE
export OMP_NUM_THREADS=4

cd "$SLURM_SUBMIT_DIR"
read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" \
    --nproc-per-node 4 \
    --rdzv-id "$SLURM_JOB_ID" \
    --rdzv-backend c10d \
    --rdzv-endpoint "$first:29500" \
    worker.py --trials 24
