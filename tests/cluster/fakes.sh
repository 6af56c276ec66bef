#!/usr/bin/env bash
# Stands in for srun, scontrol, ray, headsearch, python, openssl and hostname, by the name it is
# called by: writes its arguments to $LOG, and does as little as the scripts need.
name=$(basename "$0")
line=$name
for word in "$@"; do
    line+=" $(printf '%q' "$word")"
done
case $name in
srun | headsearch) line="[mode=$RAY_AUTH_MODE token=$RAY_AUTH_TOKEN_PATH address=$RAY_ADDRESS] $line" ;;
esac
if [[ "$name $*" == srun*"ray start"* ]]; then
    trap '[ -z "$!" ] || kill "$!"; echo "a \"ray start\" was ended" >>"$LOG"; exit 0' TERM
fi
# Waits as the real one does, and before it is logged: the order of the log is then always the same.
case "$name $*" in
"python - 1") until [ "$(grep -c 'ray start' "$LOG")" -ge 1 ]; do sleep 0.02; done ;;
"python - "*) until [ "$(grep -c 'ray start' "$LOG")" -ge 2 ]; do sleep 0.02; done ;;
esac
echo "$line" >>"$LOG"

case "$name $*" in
scontrol*) printf 'node%s\n' $(seq "$SLURM_JOB_NUM_NODES") ;;
"hostname -I") echo "10.1.2.3 172.17.0.1" ;;
hostname*) echo node1 ;;
openssl*) echo "not a secret" ;;
srun*"ray start"*)
    sleep 60 >/dev/null 2>&1 &
    wait
    ;;
srun*symmetric-run*) exit "${FAKE_STATUS:-0}" ;;
headsearch*)
    [ -z "${FAKE_SLOW:-}" ] || exec sleep 60
    exit "${FAKE_STATUS:-0}"
    ;;
esac
