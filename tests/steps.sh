# For scripts of several steps, which source it: what runs in the background stays readable, and a table of seconds ends
# the run. A script that is run by another leaves the table to that one.
#
#   step NAME                what follows belongs to it
#   beside NAME COMMAND...   starts a command in the background, where it gives way to others, and keeps its output
#   join NAME                waits for it and shows its output; what failed there fails here

steps_started=$SECONDS
steps_now=
declare -A steps_jobs=() steps_logs=()
steps_folder=$(mktemp -d)
steps_is_outermost=false
if [ -z "${STEPS_TABLE:-}" ]; then
    steps_is_outermost=true
    export STEPS_TABLE=$steps_folder/table STEPS_BEGAN=$EPOCHSECONDS
    : >"$STEPS_TABLE"
fi

# Adds a line to the table: $1 took since second $2 of this script.
steps_note() {
    printf '%6d  %s\n' $((SECONDS - $2)) "$1" >>"$STEPS_TABLE"
}

steps_close() {
    [ -z "$steps_now" ] || steps_note "$steps_now" "$steps_started"
    steps_now=
}

step() {
    steps_close
    steps_now=$1 steps_started=$SECONDS
    printf '\n== %s (after %s s)\n' "$1" $((EPOCHSECONDS - STEPS_BEGAN))
}

beside() {
    local name=$1 log=$steps_folder/${#steps_jobs[@]}.log
    shift
    # A process group of its own, which can be ended as one.
    set -m
    (
        renice -n 7 -p "$BASHPID" >/dev/null
        since=$SECONDS
        trap 'steps_note "$name, beside others" "$since"' EXIT
        steps_now=
        "$@"
    ) >"$log" 2>&1 </dev/null &
    set +m
    steps_jobs[$name]=$! steps_logs[$name]=$log
}

join() {
    local job=${steps_jobs[$1]}
    step "$1"
    # Already noted by itself.
    steps_now=
    tail -n +1 -f --pid="$job" "${steps_logs[$1]}"
    unset "steps_jobs[$1]"
    wait "$job" || { echo "FAILED ($?): $1"; return 1; }
}

steps_end() {
    local status=$? job
    trap - EXIT
    for job in "${steps_jobs[@]}"; do kill -- "-$job" 2>/dev/null || true; done
    steps_close
    if $steps_is_outermost; then
        printf '\n%6s  %s\n' seconds step
        cat "$STEPS_TABLE"
        printf '%6d  %s\n' $((EPOCHSECONDS - STEPS_BEGAN)) "all"
    fi
    rm -rf "$steps_folder"
    exit $status
}
trap steps_end EXIT
