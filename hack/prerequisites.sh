#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that are missing; says nothing when none is.
set -euo pipefail

declare -A package_of=(
  [g++]=g++ [curl]=curl [git]=git [ip]=iproute2 [iptables]=iptables [runc]=runc
  [valgrind]=valgrind [nsenter]=util-linux [modprobe]=kmod [/usr/lib/cni/bridge]=containernetworking-plugins
  [/usr/share/doc/libopenblas-dev]=libopenblas-dev
)
missing=()
for probe in "${!package_of[@]}"; do
  case "$probe" in
    /*) [ -e "$probe" ] || missing+=("${package_of[$probe]}") ;;
    *) command -v "$probe" >/dev/null || missing+=("${package_of[$probe]}") ;;
  esac
done
[ ${#missing[@]} -eq 0 ] && exit 0

command -v apt-get >/dev/null || {
  echo "missing: ${missing[*]}; this machine has no apt-get, install them with your package manager" >&2
  exit 1
}
[ "$(id -u)" = 0 ] || { echo "missing: ${missing[*]}; run as root or install them first" >&2; exit 1; }
echo "Installing Debian packages: ${missing[*]}"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
