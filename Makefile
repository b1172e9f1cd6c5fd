# SPDX-License-Identifier: Apache-2.0
# `make help` lists the targets. Everything a target needs is installed or built
# by the target itself; nothing has to be prepared by hand but Go, make and root.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

ROOT := $(CURDIR)
BIN := $(ROOT)/bin
export FINDEP_CACHE ?= $(HOME)/.cache/findep
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO ?= go
# The sidecar and the command line tool contain the native CPU backend.
NATIVE_TAGS := findep_native
GO_LDFLAGS := -s -w -X main.version=$(VERSION)
TEST_FLAGS ?=
# go-nvml binds deprecated functions too; their warnings are not ours to mend.
export CGO_CFLAGS ?= -O2 -g -Wno-deprecated-declarations

##@ Use it

.PHONY: demo
demo: ## Start a local cluster, serve the sample model on it and ask it something.
	@hack/demo.sh up

.PHONY: demo-down
demo-down: ## Remove everything that `make demo` started.
	@hack/demo.sh down

##@ Build

.PHONY: build
build: build-static build-native ## Build manager, runtime, server and findep into bin/.

.PHONY: build-static
build-static: # What needs no C compiler: the images manager and server.
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -ldflags '$(GO_LDFLAGS)' -o $(BIN)/ ./cmd/manager ./cmd/server

.PHONY: build-native
build-native: native # What contains the CPU backend: the images runtime-cpu and runtime-cuda.
	@mkdir -p $(BIN)
	$(GO) build -tags $(NATIVE_TAGS) -ldflags '$(GO_LDFLAGS)' -o $(BIN)/ ./cmd/runtime ./cmd/findep

# For example IMAGES='manager server' CUDA_ARCHES=90a; see docs/images.md.
IMAGES ?=
.PHONY: images
images: ## Build the container images without an engine, run and inventory them (root, Debian).
	VERSION=$(VERSION) hack/images/build.sh $(IMAGES)

.PHONY: sbom
sbom: build ## Write a bill of materials for each program in bin/ to build/sbom.
	for program in manager server runtime findep; do \
	  $(GO) -C hack/images run ./sbom --root $(BIN)/$$program --name findep/$$program --version $(VERSION) --output $(ROOT)/build/sbom/$$program.cdx.json; done

.PHONY: prerequisites
prerequisites: ## Install the Debian packages that building and testing need.
	@hack/prerequisites.sh

.PHONY: clean
clean: ## Remove build results (not the cache of tools and cluster binaries).
	rm -rf $(BIN) build

##@ Test

.PHONY: test
test: test-unit test-images test-queries test-native test-cuda-build test-integration test-e2e ## Run all tests: unit, native, CUDA without a GPU, envtest and end-to-end.
	@echo "make test: all passed"

# The packages whose tests need a real API server or a cluster.
CLUSTER_PACKAGES := ./controllers/moedeployment/... ./test/integration/... ./test/env/...
UNIT_PACKAGES = $$($(GO) list ./... | grep -v -E '/(test/(e2e|integration|env)|controllers/moedeployment)(/|$$)')

.PHONY: test-unit
test-unit: native native-recorder ## Unit tests of every package, with the native CPU backend.
	$(GO) test -tags $(NATIVE_TAGS) $(TEST_FLAGS) $(UNIT_PACKAGES)

.PHONY: test-images
test-images: ## Check the Dockerfile and the bill of materials.
	$(GO) -C hack/images test ./...

.PHONY: test-queries
# Results are not cached, as go sees no changes of files outside of the module.
test-queries: ## Read the chart's alerts and dashboards with Prometheus's parser.
	$(GO) -C hack/promcheck test -count=1 ./...

.PHONY: test-native
test-native: native-test ## Tests of the kernels in C++, with sanitizers.

.PHONY: test-integration
test-integration: ## Controller tests against a real API server.
	$(GO) run ./hack/localcluster build envtest
	$(GO) test $(TEST_FLAGS) $(CLUSTER_PACKAGES)

.PHONY: test-e2e
test-e2e: build ## End-to-end tests on a real cluster (local unless KUBECONFIG is set).
	hack/e2e.sh

.PHONY: test-e2e-kill
# Without the chart's, in which helm waits for all managers to be ready at once.
test-e2e-kill: build ## The same, and long ones, while the operator is killed every 5 to 20 s (FINDEP_E2E_KILL=seed).
	FINDEP_E2E_LABELS='!chart' FINDEP_E2E_KILL=$${FINDEP_E2E_KILL:-random} hack/e2e.sh

.PHONY: soak
soak: native ## Break a running instance SOAK_FAULTS (60) times at random under load (needs root; 10 minutes).
	FINDEP_SOAK_FAULTS=$${SOAK_FAULTS:-60} FINDEP_SOAK_REQUESTS=$${SOAK_REQUESTS:-500} FINDEP_SOAK_SEED=$${SOAK_SEED:-$$(date +%s)} \
	  FINDEP_SOAK_REPORT=$(ROOT)/build/soak.json $(GO) test -tags $(NATIVE_TAGS) -count=1 -timeout 60m -v ./test/soak

.PHONY: test-long
test-long: build ## Tests that take minutes: every API call fails once in each way, nodes are lost, the operator is killed; cert-manager.
	FINDEP_TEST_LONG=1 $(GO) test -timeout 60m $(TEST_FLAGS) ./test/integration/ -ginkgo.focus 'may fail'
	FINDEP_E2E_LABELS=long hack/e2e.sh
	hack/certmanager.sh
	$(MAKE) --no-print-directory test-e2e-kill

# For example PERF_FLAGS='--subject findep --groups 50 --rest 10m'.
PERF_FLAGS ?=
.PHONY: test-perf
test-perf: ## Measure the operator with 8,000 pods on KWOK nodes (root; docs/benchmarks.md).
	$(GO) run ./test/perf $(PERF_FLAGS)

.PHONY: test-perf-full
test-perf-full: ## The same beside a bare client and LeaderWorkerSet, as a table (root; 20 minutes; PERF_REST=10m for a longer rest).
	GO="$(GO)" hack/perf-full.sh $(PERF_FLAGS)

.PHONY: fuzz
fuzz: native ## Run every fuzz target for FUZZ_TIME (10s) each.
	hack/fuzz.sh

.PHONY: test-race
test-race: native ## The runtime's and the planner's tests with the race detector.
	$(GO) test -race -tags $(NATIVE_TAGS) ./runtime/...

##@ Develop

.PHONY: generate
generate: ## Regenerate deep copies, CRDs, RBAC, protocol buffers and the chart's copies.
	hack/generate.sh

.PHONY: lint
lint: ## Run golangci-lint.
	@. hack/lib.sh && use_tools golangci-lint && golangci-lint run ./...

.PHONY: tools
tools: ## Build the pinned development tools of hack/tools into the cache.
	$(GO) run ./hack/localcluster build tools

.PHONY: verify
verify: ## Regenerate, lint, check imports, and require a clean tree.
	hack/verify.sh

.PHONY: evaluation
evaluation: ## Run the experiments again and rewrite docs/evaluation.md with its plots.
	$(GO) run ./hack/evaluation

.PHONY: tinymodel
tinymodel: ## Train the sample checkpoint again and rewrite its references (needs Python).
	bash hack/tinymodel/run.sh

.PHONY: help
help: ## Show this help.
	@awk 'BEGIN {FS = ":.*##"; printf "Usage: make TARGET\n"} \
	  /^[a-zA-Z0-9_-]+:.*?##/ { printf "  %-18s %s\n", $$1, $$2 } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) }' $(MAKEFILE_LIST)

##@ Backends

include hack/make/native.mk
include hack/make/cuda.mk
