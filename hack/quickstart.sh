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
printed=build/quickstart.out

# The page as lines of "run COMMAND", "want EXPRESSION", and "end" after the
# expressions of a block.
script() {
  awk '/^```/ { state = $0 == "```sh" ? "run" : ""; next }
    /^<!-- prints$/ { state = "want"; next }
    /^-->$/ { state = ""; print "end"; next }
    state { print state, $0 }' "$page"
}

commands=0 lines=0
: >"$printed"
while read -r -u 3 verb text; do
  case $verb in
    run)
      printf '\n$ %s\n' "$text"
      # In this shell, since later commands need what earlier ones export.
      eval "$text" > >(tee -a "$printed") 2>&1 || {
        echo "$page: the command above failed (exit code $?)" >&2
        exit 1
      }
      wait $!
      commands=$((commands + 1)) ;;
    want)
      grep -Eq -e "$text" "$printed" || {
        echo "$page: what the last commands printed ($printed) has no line like: $text" >&2
        exit 1
      }
      lines=$((lines + 1)) ;;
    end) : >"$printed" ;;
  esac
done 3< <(script)
printf '\nquickstart: %d commands worked and printed %d expected lines in %d s\n' "$commands" "$lines" "$SECONDS"
