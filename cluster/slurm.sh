#!/usr/bin/env bash
# Whole nodes under Slurm: Ray on all of them, the search on the first. From the root of the
# repository, with headsearch on PATH on every node and RUN on storage that all nodes see:
#
#   sbatch -N 4 cluster/slurm.sh RUN MODEL DATA [options of headsearch run]
#
# The same command again goes on with RUN. A node that Slurm takes away ends the job and puts it
# back in the queue, from where it goes on too. For nodes that are shared with others:
# slurm-shared.sh.
#SBATCH --job-name=headsearch
#SBATCH --exclusive
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

# Slurm runs a copy of this script, so the way to start.sh leads by where sbatch was called.
start="$SLURM_SUBMIT_DIR/cluster/start.sh"
run=${1:?"usage: sbatch cluster/slurm.sh RUN MODEL DATA [options of headsearch run]"}

# One token for all jobs of a user, in a file that no one else can read.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="${RAY_AUTH_TOKEN_PATH:-$HOME/.headsearch/auth_token}"
if [ ! -s "$RAY_AUTH_TOKEN_PATH" ]; then
    (
        umask 077
        mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"
        openssl rand -hex 32 >"$RAY_AUTH_TOKEN_PATH"
    )
fi

# Seconds for all nodes to join: importing Ray from a shared disk on many nodes at once is slow.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
export RAY_USAGE_STATS_ENABLED=0

# This script runs on the job's first node. Its address, not its name: on some systems a machine's
# own name is a loopback address, by which no other node finds it.
head=$(hostname -I | cut -d ' ' -f 1)
nodes=$SLURM_JOB_NUM_NODES

# Ray's dashboard listens on loopback, which is its default.
echo "slurm.sh: Ray's dashboard is at 127.0.0.1:8265 on $(hostname)"
srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 \
    --cpus-per-task="$SLURM_CPUS_ON_NODE" \
    ray symmetric-run --address "$head:6379" --min-nodes "$nodes" \
    --num-cpus "$SLURM_CPUS_ON_NODE" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" \
    -- bash "$start" "$@"

# symmetric-run exits with 0 if Ray itself did not start.
if [ ! -f "$run/result.json" ]; then
    echo "slurm.sh: the search left no $run/result.json; the reason is above" >&2
    exit 1
fi
