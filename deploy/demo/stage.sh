# The stage of the demo: shows commands as they run, keeps track of processes, notes what held. Read `run` first.
# shellcheck shell=bash

bold='' plain='' green='' red=''
if [ -t 1 ]; then bold=$'\e[1m' plain=$'\e[0m' green=$'\e[32m' red=$'\e[31m'; fi
began=$SECONDS
finished=no
held=()
declare -A pids

title() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }

# show COMMAND: prints one shell command and runs it; a failure ends the demo.
show() {
  printf '  %s$ %s%s\n' "$bold" "$1" "$plain"
  (eval "$1") 2>&1 | sed 's/^/    /' || fail "the command above failed"
}

# start NAME COMMAND...: runs a program in the background, its output in NAME.log.
start() {
  local name=$1
  shift
  awk -v RS=' --' -v bold="$bold" -v plain="$plain" '
    NR == 1 { line = "  " bold "$ " $0; next }
    length(line " --" $0) > 110 { print line " \\"; line = "     " }
    { line = line " --" $0 }
    END { print line " &" plain }' < <(printf '%s' "$*")
  "$@" >>"$name.log" 2>&1 &
  pids[$name]=$!
}

# await SECONDS WHAT COMMAND...: tries the command until it succeeds. A program that ended meanwhile is a failure.
await() {
  local deadline=$((SECONDS + $1)) what=$2 name
  shift 2
  until "$@"; do
    for name in "${!pids[@]}"; do
      kill -0 "${pids[$name]}" 2>/dev/null || fail "$name ended while we waited for $what"
    done
    [ $SECONDS -lt "$deadline" ] || fail "waited in vain for $what"
    sleep 0.05
  done
}

answers() { curl --silent --fail --output /dev/null --max-time 2 "$1"; }

# stop NAME: asks a program of ours to end and waits for it; its exit code.
stop() {
  local pid=${pids[$1]}
  unset "pids[$1]"
  kill "$pid" 2>/dev/null || true # it may have ended by itself
  wait "$pid"
}

# crash NAME: ends a program of ours without giving it any time.
crash() {
  local pid=${pids[$1]}
  unset "pids[$1]"
  printf '  %s$ kill -KILL %s # %s%s\n' "$bold" "$pid" "$1" "$plain"
  { kill -KILL "$pid" && wait "$pid"; } 2>/dev/null || true # bash would report the death
}

# holds WHAT TEST...: the test must succeed; then WHAT stands in the summary.
holds() {
  local what=$1
  shift
  "$@" >/dev/null || fail "not so: $what"
  held+=("$what")
  printf '  %s✓ %s%s\n' "$green" "$what" "$plain"
}

fail() {
  printf '  %s✗ %s%s\n' "$red" "$1" "$plain"
  exit 1
}

# The trap of the demo's end, however it comes.
end() {
  local code=$? name
  trap - EXIT INT TERM
  for name in "${!pids[@]}"; do kill "${pids[$name]}" 2>/dev/null || true; done
  for name in "${!pids[@]}"; do
    # The agents and the CA end within their own limits; nothing may outlive the demo all the same.
    timeout 10 tail --pid="${pids[$name]}" -f /dev/null || kill -KILL "${pids[$name]}" 2>/dev/null || true
  done
  if [ $finished = yes ]; then
    cd / && rm -rf "$room"
    exit 0
  fi
  for name in *.log; do
    printf '\n--- the end of %s\n' "$name"
    tail -n 15 "$name"
  done
  printf '\n%sThe demo failed.%s Everything it wrote is in %s\n' "$red" "$plain" "$room"
  exit $((code ? code : 1))
}
