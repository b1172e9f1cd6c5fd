#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The project's main job on a real cluster, from nothing to tokens.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=hack/lib.sh
. hack/lib.sh

sample=config/samples/findep_v1alpha1_moedeployment.yaml
name=tiny
namespace=default
prompt=${PROMPT:-"And it came to pass in those days,"}

up() {
  hack/prerequisites.sh
  hack/stack.sh up
  # shellcheck source=/dev/null
  . build/stack.env

  step "Applying $sample"
  # The sample names the image by a tag for people; here it is the one just loaded.
  sed "s#localhost/findep/tinymodel:dev#$FINDEP_MODEL_IMAGE#" "$sample" >build/sample.yaml
  kubectl apply -n "$namespace" -f build/sample.yaml
  step "Waiting until it is Available"
  kubectl wait -n "$namespace" "moed/$name" --for=condition=Available --timeout=240s >/dev/null || {
    kubectl describe -n "$namespace" "moed/$name" >&2
    exit 1
  }
  kubectl get -n "$namespace" moed "$name"
  ask
  cat <<EOF

The cluster is still up. To use it:
  . build/stack.env
  kubectl get moed
  kubectl describe moed $name
  kubectl port-forward service/$name 8000:8000
To remove it: make demo-down
EOF
}

# ask sends one prompt through the leader Service and prints what came back.
ask() {
  local port=18000
  kubectl port-forward -n "$namespace" "service/$name" $port:8000 >build/port-forward.log 2>&1 &
  local forward=$!
  # shellcheck disable=SC2064
  trap "kill $forward 2>/dev/null || true" EXIT
  local answer=""
  for _ in $(seq 40); do
    answer=$(curl -sf "http://127.0.0.1:$port/v1/completions" -H 'Content-Type: application/json' \
      -d "{\"model\":\"tiny\",\"prompt\":\"$prompt\",\"max_tokens\":48,\"temperature\":0}") && break
    sleep 0.25
  done
  [ -n "$answer" ] || { echo "no answer from service/$name; see build/port-forward.log" >&2; exit 1; }
  step "Answer of POST /v1/completions"
  bin/findep show completion --prompt "$prompt" <<<"$answer"
  step "What the operator and the solver chose, and how the prediction compares"
  # The operator reads the leader every few seconds.
  for _ in $(seq 40); do
    kubectl get -n "$namespace" moed "$name" -o json >build/moed.json
    grep -q '"decode"' build/moed.json && break
    sleep 0.5
  done
  bin/findep show deployment <build/moed.json
}

case "${1:-}" in
  up) up ;;
  down)
    if [ -n "${KUBECONFIG:-}" ]; then
      kubectl delete -n "$namespace" -f "$sample" --ignore-not-found
      helm uninstall findep --namespace findep-system --ignore-not-found
    else
      hack/stack.sh down
    fi ;;
  *) echo "usage: hack/demo.sh up|down" >&2; exit 2 ;;
esac
