// SPDX-License-Identifier: Apache-2.0

package dockerfile

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

// The images that the chart names.
var images = []string{"manager", "server", "runtime-cpu", "runtime-cuda"}

func TestTheProjectsDockerfile(t *testing.T) {
	root := os.DirFS("../../..")
	text, err := os.ReadFile("../../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(text, root, images); err != nil {
		t.Error(err)
	}
}

const good = `ARG BASE=scratch
FROM golang AS build
COPY go.mod ./
RUN go mod download
RUN make -f hack/make/x.mk all other FLAGS="a b" DESTDIR=/out
FROM ${BASE} AS manager
LABEL org.opencontainers.image.title="t" org.opencontainers.image.description="d" org.opencontainers.image.source="s" \
      org.opencontainers.image.licenses="l" org.opencontainers.image.version="v" org.opencontainers.image.revision="r"
COPY --from=build /out/manager /manager
USER 65532:65532
ENTRYPOINT ["/manager"]
`

func TestCheck(t *testing.T) {
	tree := fstest.MapFS{
		"go.mod":         &fstest.MapFile{},
		"Makefile":       &fstest.MapFile{Data: []byte("all: x\nNAME := v\n")},
		"hack/make/x.mk": &fstest.MapFile{Data: []byte("other:\n\techo\n")},
	}
	for name, tc := range map[string]struct{ old, replacement, want string }{
		"good":                 {"", "", ""},
		"source that is gone":  {"COPY go.mod", "COPY go.work", "line 3: COPY: open go.work"},
		"unknown stage":        {"--from=build", "--from=builder", "no stage above has that name"},
		"unknown target":       {"all other", "all missing", "line 5: RUN make missing"},
		"variable as a target": {"all other", "NAME", "RUN make NAME"},
		"shell command":        {"RUN go mod download", "RUN go mod download && curl x", "RUN curl x: let a target"},
		"ADD":                  {"COPY go.mod", "ADD go.mod", "ADD fetches"},
		"root by name":         {"USER 65532:65532", "USER root", `USER is "root"`},
		"root by number":       {"USER 65532:65532", "USER 0:0", `USER is "0:0"`},
		"user by name":         {"USER 65532:65532", "USER nonroot", `USER is "nonroot"`},
		"no user":              {"USER 65532:65532\n", "", `USER is ""`},
		"root in the end":      {"ENTRYPOINT", "USER 0\nENTRYPOINT", `USER is "0"`},
		"shell entrypoint":     {`ENTRYPOINT ["/manager"]`, "ENTRYPOINT /manager", "ENTRYPOINT without a shell"},
		"no label":             {`org.opencontainers.image.revision="r"`, `other="r"`, "no label org.opencontainers.image.revision"},
		"RUN in an image":      {"USER", "RUN make all\nUSER", "RUN leaves a layer"},
		"source in an image":   {"--from=build /out/manager", "go.mod", "takes the source along"},
		"no image":             {"AS manager", "AS operator", "there is no stage manager"},
		"lint of the parser":   {"FROM golang AS build", "FROM golang as build", "casing"},
		"not a Dockerfile":     {"USER", "USR", "unknown instruction"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Check([]byte(strings.Replace(good, tc.old, tc.replacement, 1)), tree, []string{"manager"})
			switch {
			case tc.want == "" && err != nil:
				t.Error(err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
