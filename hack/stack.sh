#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Brings the whole product up on a cluster: binaries, images, cluster, chart.
#   hack/stack.sh up     prints progress; leaves build/stack.env to be sourced
#   hack/stack.sh down   removes the local cluster
# With KUBECONFIG set it uses that cluster; the images must then be where its
# nodes can pull them: FINDEP_IMAGE_REGISTRY and FINDEP_IMAGE_TAG say where.
# FINDEP_CLUSTER is the name of the local cluster, findep unless it is set; one
# that exists under that name is used as it is, another is made with the flags in
# FINDEP_CLUSTER_FLAGS.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=hack/lib.sh
. hack/lib.sh

namespace=findep-system
cluster=${FINDEP_CLUSTER:-findep}
env_file=build/stack.env

local_images() {
  local tag=$1
  step "Loading images into the nodes"
  local load=(localcluster load-image --cluster "$cluster")
  "${load[@]}" --name "localhost/findep/manager:$tag" --binary bin/manager=/manager --entrypoint /manager
  "${load[@]}" --name "localhost/findep/server:$tag" --binary bin/server=/server --entrypoint /server
  "${load[@]}" --name "localhost/findep/runtime:$tag" --binary bin/runtime=/runtime --entrypoint /runtime --base-libs auto
  # Pods refer to a model by a tag that names its content: a node may refuse to
  # mount a tag whose content was replaced while it ran.
  "${load[@]}" --name "localhost/findep/tinymodel:$2" --add test/testdata/tinymodel=/
  "${load[@]}" --name "localhost/findep/vllm-standin:$tag" --binary bin/vllm-standin=/usr/local/bin/vllm
}

up() {
  mkdir -p build
  local registry tag model pull own=
  if [ -n "${KUBECONFIG:-}" ]; then
    registry=${FINDEP_IMAGE_REGISTRY:?with KUBECONFIG set, FINDEP_IMAGE_REGISTRY must name the registry with the images manager, runtime, server, tinymodel and vllm-standin}
    tag=${FINDEP_IMAGE_TAG:?with KUBECONFIG set, FINDEP_IMAGE_TAG must name the tag of the images}
    model=$tag pull=IfNotPresent
    step "Using the cluster of KUBECONFIG=$KUBECONFIG"
    use_tools helm kubectl
  else
    step "Building the binaries"
    make --no-print-directory build
    # Stands in for vLLM in the end-to-end tests.
    CGO_ENABLED=0 go build -o bin/vllm-standin ./test/vllmstandin
    step "Building the cluster's own programs (minutes the first time, then cached)"
    use_tools cluster helm
    step "Starting the local cluster"
    # shellcheck disable=SC2086 # The flags are several words.
    localcluster status --name "$cluster" >/dev/null 2>&1 ||
      localcluster up --name "$cluster" ${FINDEP_CLUSTER_FLAGS:-} || {
      echo "Flags of localcluster up, as for another network, go into FINDEP_CLUSTER_FLAGS; see docs/localcluster.md." >&2
      exit 1
    }
    KUBECONFIG=$(localcluster kubeconfig --name "$cluster")
    export KUBECONFIG
    registry=localhost/findep pull=Never own=$FINDEP_CACHE/tools/localcluster
    tag=$(sha256sum bin/manager bin/runtime bin/server bin/vllm-standin | sha256sum | cut -c1-12)
    model=$(cat test/testdata/tinymodel/* | sha256sum | cut -c1-12)
    local_images "$tag" "$model"
  fi

  step "Installing the chart with helm"
  helm upgrade --install findep charts/findep-operator --namespace "$namespace" --create-namespace \
    --set "images.registry=$registry" --set "images.tag=$tag" --set "images.pullPolicy=$pull" \
    --wait --timeout 180s >build/helm.log || { cat build/helm.log >&2; kubectl -n "$namespace" get pods -o wide >&2; exit 1; }
  cat >"$env_file" <<EOF
export KUBECONFIG=$KUBECONFIG
export PATH=$PATH
export FINDEP_MODEL_IMAGE=$registry/tinymodel:$model
export FINDEP_VLLM_IMAGE=${FINDEP_VLLM_IMAGE-$registry/vllm-standin:$tag}
# The program that made the cluster, where it is the local one, and its name.
export FINDEP_LOCALCLUSTER=$own
export FINDEP_CLUSTER=$cluster
EOF
}

case "${1:-}" in
  up) up ;;
  down) localcluster down --name "$cluster" ;;
  *) echo "usage: hack/stack.sh up|down" >&2; exit 2 ;;
esac
