#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Rebuild test/testdata/tinymodel and test/testdata/reference from nothing:
# environment, corpus, training, export, references. See README.md.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
cache="${TINYMODEL_CACHE:-$root/.cache/tinymodel}"
corpus_version=4.38
# What `bible -f gen1:1-rev22:21` of that version prints.
corpus_sha256=cd45f0c9cedab8e4439bd6486c8952c77cc8b0ecc5d1f6ae3513f2039f47229d
mkdir -p "$cache"

# The training code uses what is in requirements.txt and nothing newer.
stamp="$(cat "$here/requirements.txt" "$here/constraints.txt" | sha256sum | cut -d' ' -f1)"
if [[ "$(cat "$cache/venv.stamp" 2>/dev/null)" != "$stamp" ]]; then
  echo "== Python environment in $cache/venv (about 7 GB, once)"
  python3.11 -m venv --clear "$cache/venv"
  "$cache/venv/bin/pip" install --quiet --no-cache-dir -r "$here/requirements.txt" -c "$here/constraints.txt"
  echo "$stamp" > "$cache/venv.stamp"
fi

# Only unpacked, not installed: neither root nor a change to the machine is needed.
if ! sha256sum --check --status <<< "$corpus_sha256  $cache/kjv.txt" 2>/dev/null; then
  echo "== Corpus: Debian packages bible-kjv and bible-kjv-text $corpus_version"
  rm -rf "$cache/corpus" && mkdir -p "$cache/corpus"
  (
    cd "$cache/corpus"
    apt-get download "bible-kjv=$corpus_version" "bible-kjv-text=$corpus_version" || {
      echo "run 'apt-get update' first, or put the two .deb files of version $corpus_version into $PWD" >&2
      exit 1
    }
    for package in *.deb; do dpkg-deb -x "$package" .; done
    ./usr/bin/bible -p usr/lib -f gen1:1-rev22:21 > "$cache/kjv.txt"
  )
  sha256sum --check --quiet <<< "$corpus_sha256  $cache/kjv.txt"
fi

# Idle OpenMP threads sleep instead of spinning, which would stall a shared machine.
export OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=1
python="$cache/venv/bin/python"
model="$root/test/testdata/tinymodel"
reference="$root/test/testdata/reference"

# Trained beside the old one, which stays when a step fails.
out="$cache/checkpoint"
rm -rf "$out" && mkdir -p "$out"
echo "== Training (progress every 20 steps)"
nice -n 10 "$python" "$here/train.py" --corpus "$cache/kjv.txt" --out "$out" --report "$cache/report.json" "$@"
echo "== References"
nice -n 10 "$python" "$here/reference.py" --corpus "$cache/kjv.txt" --model "$out" --out "$cache/reference"
nice -n 10 "$python" "$here/card.py" --report "$cache/report.json" --reference "$cache/reference" --out "$out/README.md"

mkdir -p "$model" "$reference"
rm -f "$model"/* "$reference"/*
cp "$out"/* "$model/"
cp "$cache/reference"/* "$reference/"
echo "== Done: $model and $reference"
