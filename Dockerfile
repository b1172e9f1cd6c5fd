# SPDX-License-Identifier: Apache-2.0
# The project's images, one target each:
#   docker build --target manager     -t REGISTRY/manager:TAG     .
#   docker build --target server      -t REGISTRY/server:TAG      .
#   docker build --target runtime-cpu -t REGISTRY/runtime:TAG     .
# The local cluster makes the same images without an engine from bin/ (see
# docs/localcluster.md): /manager, /server and /runtime, run as user 65532.
ARG GO_IMAGE=golang:1.26-bookworm
ARG DEBIAN_IMAGE=debian:bookworm-slim

FROM ${GO_IMAGE} AS source
WORKDIR /src
# Modules first: they change less often than the source, so this layer lasts.
COPY go.mod go.sum ./
RUN go mod download
COPY . .

FROM source AS build-static
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -buildvcs=false -ldflags="-s -w -X main.version=${VERSION}" \
        -o /out/ ./cmd/manager ./cmd/server

FROM source AS build-runtime-cpu
ARG VERSION=dev
# The native library installs its BLAS with apt-get and carries it along, so the
# program needs nothing but the C library at run time.
RUN make -f hack/make/native.mk native
RUN CGO_ENABLED=1 go build -buildvcs=false -tags findep_native \
        -ldflags="-s -w -X main.version=${VERSION}" -o /out/ ./cmd/runtime

FROM scratch AS manager
COPY --from=build-static /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build-static /out/manager /manager
USER 65532:65532
ENTRYPOINT ["/manager"]

FROM scratch AS server
COPY --from=build-static /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build-static /out/server /server
USER 65532:65532
ENTRYPOINT ["/server"]

# The same Debian release as the build stage: the program is linked to its C
# library.
FROM ${DEBIAN_IMAGE} AS runtime-cpu
COPY --from=build-runtime-cpu /out/runtime /runtime
USER 65532:65532
ENTRYPOINT ["/runtime"]
