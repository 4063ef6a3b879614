#!/usr/bin/env bash
# Workers on machines that have only SSH: one process on each GPU of each host, or one on its CPU.
# Change the lines marked <--, then
#
#     export KDECAY_STORAGE=postgresql://user:password@host/database
#     workers/ssh.sh HOST...
#
# They end when no work is left, on `kdecay stop NAME`, or on `ssh HOST kill PID` (which drains).

set -euo pipefail

folder=kdecay-search                       # <-- the checkout on the hosts, after `make install`
checkpoints=/shared/kdecay/checkpoints     # <-- a folder that all hosts see
log=kdecay-worker.log                      # <-- on the hosts, in the user's home

: "${KDECAY_STORAGE:?export the URL of the database}"

remote="
    IFS= read -r KDECAY_STORAGE
    export KDECAY_STORAGE KDECAY_CHECKPOINTS='$checkpoints'
    setsid '$folder/.venv/bin/kdecay' worker --device all --drain >> '$log' 2>&1 < /dev/null &
    echo \"\$!\"
"

# The URL is sent through the connection's input: all users of a host can read a command line.
failed=0
for host in "$@"; do
    if pid=$(ssh -o BatchMode=yes "$host" "$remote" <<< "$KDECAY_STORAGE"); then
        echo "$host: process $pid, log $log"
    else
        echo "$host: no worker was started" >&2
        failed=1
    fi
done
exit "$failed"
