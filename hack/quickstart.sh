#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs every command of docs/quickstart.md in one shell, and looks in what the
# commands of a block print for each line of the comment "prints" that follows the
# block: an extended regular expression per line. It stops at the first command
# that fails and at the first line that is not there. test/policy checks that the
# outputs on the page have those lines too.
set -euo pipefail
cd "$(dirname "$0")/.."
page=docs/quickstart.md
mkdir -p build
log=build/quickstart.log
: >"$log"
# A file and not a pipe: the cluster's processes inherit it, and a pipe that they
# hold never ends.
tail -q -n +1 -s 0.2 --pid=$$ -f "$log" &

say() { printf "$@" >>"$log"; }
fail() {
  say '\n%s: %s\n' "$page" "$1"
  exit 1
}
# The last lines are to be seen too.
trap 'sleep 1' EXIT

# The page as lines of "run COMMAND", "want EXPRESSION", and "end" after the
# expressions of a block.
script() {
  awk '/^```/ { state = $0 == "```sh" ? "run" : ""; next }
    /^<!-- prints$/ { state = "want"; next }
    /^-->$/ { state = ""; print "end"; next }
    state { print state, $0 }' "$page"
}

commands=0 lines=0 seen=0
while read -r -u 3 verb text; do
  case $verb in
    run)
      say '\n$ %s\n' "$text"
      # In this shell, since later commands need what earlier ones export.
      eval "$text" >>"$log" 2>&1 || fail "the command above failed"
      commands=$((commands + 1)) ;;
    want)
      tail -c +$((seen + 1)) "$log" | grep -E -e "$text" >/dev/null || fail "the commands above printed no line like: $text"
      lines=$((lines + 1)) ;;
    end) seen=$(stat -c %s "$log") ;;
  esac
done 3< <(script)
say '\nquickstart: %d commands worked and printed %d expected lines in %d s\n' "$commands" "$lines" "$SECONDS"
