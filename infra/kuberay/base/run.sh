#!/usr/bin/env bash
# The entrypoint of the RayJob. Status 3 (complete, some rows are errors) must not start another cluster, which
# would find nothing to do; summary.json and the metrics say how many rows are errors, and why.
# Events go to the log of the pod as lines of JSON.
P2L_LOG=json p2l restore /etc/p2l/job.yaml
status=$?
[ "$status" -eq 3 ] && exit 0
exit "$status"
