#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs every command of docs/quickstart.md in one shell and prints each with its
# output, so that the page is known to work as printed. It stops at the first
# command that fails.
set -euo pipefail
cd "$(dirname "$0")/.."

while IFS= read -r -u 3 command; do
  printf '\n$ %s\n' "$command"
  eval "$command"
done 3< <(awk '/^```/ { on = $0 == "```sh"; next } on' docs/quickstart.md)
