#!/usr/bin/env bash
# Parts of nodes under Slurm, shared with other jobs, which may run Ray too: a head and workers
# with ports and a temporary folder of this job's own. `ray symmetric-run` can't do that. From the
# root of the repository, with headsearch on PATH on every node and RUN on storage that all see:
#
#   sbatch -N 4 cluster/slurm-shared.sh RUN MODEL DATA [options of headsearch run]
#
# The same command again goes on with RUN.
#SBATCH --job-name=headsearch
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
set -euo pipefail

# Slurm runs a copy of this script, so the way to start.sh leads by where sbatch was called.
start="$SLURM_SUBMIT_DIR/cluster/start.sh"

# One token for all jobs of a user, in a file that no one else can read. On a shared node it is
# what keeps others out, since they reach its loopback as well.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="${RAY_AUTH_TOKEN_PATH:-$HOME/.headsearch/auth_token}"
if [ ! -s "$RAY_AUTH_TOKEN_PATH" ]; then
    (
        umask 077
        mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"
        openssl rand -hex 32 >"$RAY_AUTH_TOKEN_PATH"
    )
fi
export RAY_USAGE_STATS_ENABLED=0

# 200 ports for this job, below those that Linux hands out by itself (from 32768 on). Two jobs
# whose numbers differ by a multiple of 110 clash if they share a node: then Ray does not start,
# and the job ends with an error.
port=$((10000 + SLURM_JOB_ID % 110 * 200))
temporary="/tmp/headsearch-$SLURM_JOB_ID" # short: paths of sockets end at 107 characters
nodes=$SLURM_JOB_NUM_NODES
# This script runs on the job's first node. Its address, not its name: on some systems a machine's
# own name is a loopback address, by which no other node finds it.
head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
address=$(hostname -I | cut -d ' ' -f 1)
export RAY_ADDRESS="$address:$port"

node_options=(
    --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}"
    --node-manager-port "$((port + 3))" --object-manager-port "$((port + 4))"
    --dashboard-agent-listen-port "$((port + 5))" --dashboard-agent-grpc-port "$((port + 6))"
    --metrics-export-port "$((port + 7))" --runtime-env-agent-port "$((port + 8))"
    --min-worker-port "$((port + 10))" --max-worker-port "$((port + 199))"
    --temp-dir "$temporary" --block
)
one_each=(--ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK")

echo "slurm-shared.sh: Ray's dashboard is at 127.0.0.1:$((port + 1)) on $(hostname)"
started=()
clean_up() {
    status=$?
    trap - EXIT TERM INT
    if [ "${#started[@]}" -gt 0 ]; then
        kill "${started[@]}" 2>/dev/null || true
        wait "${started[@]}" 2>/dev/null || true
    fi
    srun --overlap --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 \
        rm -rf "$temporary" || true
    exit "$status"
}
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

# Waits until so many nodes have joined: workers need the head, and headsearch counts GPUs when it
# starts. Fails after five minutes.
wait_for() {
    python - "$1" <<'END'
import sys
import time

import ray

wanted, deadline = int(sys.argv[1]), time.monotonic() + 300
joined = 0
while joined < wanted and time.monotonic() < deadline:
    time.sleep(2)
    try:
        ray.init(address="auto", ignore_reinit_error=True, log_to_driver=False)
    except ConnectionError:
        continue
    joined = sum(node["Alive"] for node in ray.nodes())
if joined < wanted:
    sys.exit(f"slurm-shared.sh: {joined} of {wanted} nodes joined Ray within 300 s")
END
}

srun --nodes=1 --ntasks=1 --nodelist="$head_node" "${one_each[@]}" \
    ray start --head --node-ip-address "$address" --port "$port" \
    --dashboard-host 127.0.0.1 --dashboard-port "$((port + 1))" \
    --ray-client-server-port "$((port + 2))" "${node_options[@]}" &
started+=($!)
wait_for 1

if [ "$nodes" -gt 1 ]; then
    srun --nodes="$((nodes - 1))" --ntasks="$((nodes - 1))" --exclude="$head_node" \
        "${one_each[@]}" ray start --address "$RAY_ADDRESS" "${node_options[@]}" &
    started+=($!)
    wait_for "$nodes"
fi

# In the background, so that a signal is heard at once and not when the search is over.
bash "$start" "$@" &
search=$!
started+=("$search")
wait "$search"
