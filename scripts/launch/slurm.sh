#!/usr/bin/env bash
# One program on every node, by Slurm: sbatch THIS. JAX asks Slurm who is there.
#SBATCH --job-name=$name
#SBATCH --nodes=$hosts
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=$chips
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
cd $folder
srun --kill-on-bad-exit=1 bash -c $command_quoted
