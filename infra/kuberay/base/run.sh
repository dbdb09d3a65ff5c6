#!/usr/bin/env bash
# The entrypoint of the RayJob. What p2l says, events as lines of JSON, goes to the log of the head's pod as well,
# which outlives the cluster. How the job ends decides what the operator does:
#   SUCCEEDED  every row is restored.
#   STOPPED    p2l ended by itself and would again (2 the job is refused, 3 some rows are errors, 4 a limit of the
#              job is reached): nothing is tried again, and nobody takes it for a success.
#   FAILED     anything else: another cluster goes on from what is committed.
here=$(dirname "$0")
read -r -a arguments < "$here/arguments"
P2L_LOG=json p2l restore "$here/job.yaml" --set "workers=[1, $(< "$here/workers")]" "${arguments[@]}" 2>&1 |
    (trap '' TERM; exec tee --append "${POD_LOG:-/dev/null}")
status=${PIPESTATUS[0]}
case $status in
    2) why="the job is refused" ;;
    3) why="every row is done, and some are errors: see summary.json, \`p2l report\`, or --retry-errors" ;;
    4) why="a limit of the job is reached, and rows are left" ;;
    *) exit "$status" ;;
esac
echo "p2l ended with status $status: $why. The job ends as STOPPED." | tee --append "${POD_LOG:-/dev/null}"
ray job stop "$JOB"
exit "$status"
