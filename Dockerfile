# SPDX-License-Identifier: Apache-2.0
# The project's images, one target each:
#   docker build --target manager      --build-arg VERSION=v0.1.0 -t REGISTRY/manager:v0.1.0      .
#   docker build --target server       --build-arg VERSION=v0.1.0 -t REGISTRY/server:v0.1.0       .
#   docker build --target runtime-cpu  --build-arg VERSION=v0.1.0 -t REGISTRY/runtime:v0.1.0      .
#   docker build --target runtime-cuda --build-arg VERSION=v0.1.0 -t REGISTRY/runtime-cuda:v0.1.0 .
# `make images` builds, runs and inventories all of them; see docs/images.md.
ARG GO_IMAGE=golang:1.26-bookworm
ARG DEBIAN_IMAGE=debian:bookworm-slim
ARG VERSION=dev
ARG REVISION=unknown

FROM ${GO_IMAGE} AS source
# Where all build stages keep what lasts; hack/images/build.sh mounts its own there.
ENV GOMODCACHE=/cache/go-mod GOCACHE=/cache/go-build FINDEP_CACHE=/cache/findep
WORKDIR /src
# Modules first: they change less often than the source, so this layer lasts.
COPY go.mod go.sum ./
RUN go mod download
COPY . .

FROM source AS build-static
ARG VERSION
RUN make build-static VERSION=${VERSION}

# The native library installs its BLAS with apt-get and carries it along, so the
# program needs nothing but the C library at run time.
FROM source AS build-native
ARG VERSION
RUN make build-native native-credits VERSION=${VERSION} DESTDIR=/out

# Neither a GPU nor a driver is needed to build. The toolkit stays behind: only
# the library, cuBLASLt and NCCL go on.
FROM source AS build-cuda
ARG CUDA_ARCHES="80 86 89 90a 100"
RUN make -f hack/make/cuda.mk cuda cuda-install CUDA_ARCHES="${CUDA_ARCHES}" DESTDIR=/out

FROM scratch AS manager
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="findep manager" \
      org.opencontainers.image.description="Operator for disaggregated expert parallelism" \
      org.opencontainers.image.source="https://github.com/findep/findep-operator" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build-static /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build-static /src/bin/manager /manager
USER 65532:65532
ENTRYPOINT ["/manager"]

FROM scratch AS server
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="findep server" \
      org.opencontainers.image.description="Model server with an OpenAI-compatible API" \
      org.opencontainers.image.source="https://github.com/findep/findep-operator" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build-static /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build-static /src/bin/server /server
USER 65532:65532
ENTRYPOINT ["/server"]

# The same Debian release as the build stage: the program is linked to its C
# library.
FROM ${DEBIAN_IMAGE} AS runtime-cpu
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="findep runtime" \
      org.opencontainers.image.description="Sidecar that solves and executes, on the CPU backend" \
      org.opencontainers.image.source="https://github.com/findep/findep-operator" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build-native /out/ /
COPY --from=build-native /src/bin/runtime /src/bin/findep /
USER 65532:65532
ENTRYPOINT ["/runtime"]

# NVIDIA's container toolkit mounts the driver's parts named here; which devices
# is for the device plugin to say, so that a pod that asks for none gets none.
# FINDEP_BACKEND=auto takes the GPU, or the CPU where no device is to be had.
FROM ${DEBIAN_IMAGE} AS runtime-cuda
ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="findep runtime for CUDA" \
      org.opencontainers.image.description="Sidecar that solves and executes, on NVIDIA GPUs" \
      org.opencontainers.image.source="https://github.com/findep/findep-operator" \
      org.opencontainers.image.licenses="Apache-2.0 AND LicenseRef-NVIDIA-SLA" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    LD_LIBRARY_PATH=/usr/local/lib/findep \
    FINDEP_BACKEND=auto
COPY --from=build-cuda /out/usr/local/lib/findep/ /usr/local/lib/findep/
COPY --from=build-native /out/ /
COPY --from=build-native /src/bin/runtime /src/bin/findep /
USER 65532:65532
ENTRYPOINT ["/runtime"]
