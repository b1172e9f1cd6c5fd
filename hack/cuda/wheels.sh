#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs the pinned Python wheels of a list into a folder, without what they
# depend on: wheels.sh FOLDER REQUIREMENTS. Installs pip where there is none.
set -eu
python3 -m pip --version >/dev/null 2>&1 || {
  echo "Installing python3-pip"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-pip >/dev/null
}
exec python3 -m pip install --disable-pip-version-check --root-user-action ignore --no-deps --no-compile -q \
  --target "$1" -r "$2"
