#!/usr/bin/env bash
# Starts a search on a running Ray cluster, or goes on with it: what every launcher calls, so that
# a retry after a lost machine uses every score that the run folder has.
#
#   start.sh RUN MODEL DATA [options of `headsearch run`]
#
# A run that exists keeps what it was asked, and the options are not read, but for `--map`: no code is
# run because a file names it. To change a budget, call `headsearch resume RUN` with it. Exit codes
# are those of headsearch.
set -euo pipefail

if [ "$#" -lt 3 ]; then
    echo "usage: start.sh RUN MODEL DATA [options of headsearch run]" >&2
    exit 2
fi
run=$1 model=$2 data=$3
shift 3

if [ -f "$run/config.json" ]; then
    map=() before=
    for option in "$@"; do
        if [ "$before" = --map ]; then
            map=(--map "$option")
        elif [[ "$option" == --map=* ]]; then
            map=("$option")
        fi
        before=$option
    done
    exec headsearch resume "$run" --engine ray --ray-address auto ${map[@]+"${map[@]}"}
fi
# A start that was killed before it wrote config.json leaves the folder without it, and headsearch
# wants to make the folder itself. If anything else is in there, headsearch says so and stops.
if [ -d "$run" ]; then
    rm -f "$run"/.config.json.*
    rmdir "$run" 2>/dev/null || true
fi
exec headsearch run "$model" --data "$data" --out "$run" --engine ray --ray-address auto "$@"
