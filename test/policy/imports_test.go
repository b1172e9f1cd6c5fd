// SPDX-License-Identifier: Apache-2.0

// Package policy holds the repository's rules as tests: who may import whom,
// and why.
package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/findep/findep-operator"

// listed is the part of `go list -json` that the rules look at.
type listed struct {
	ImportPath string
	Name       string
	Imports    []string
	Deps       []string
	CgoFiles   []string
}

// list runs go list with the tag that includes every Go file of ours.
func list(t *testing.T, args ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-tags", "findep_native", "-json=ImportPath,Name,Imports,Deps,CgoFiles"}, args...)...)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("go list: %v\n%s", err, exit.Stderr)
	} else if err != nil {
		t.Fatal(err)
	}
	var all []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// TestPlanningPackagesArePure: a plan must be a function of data, or it could
// be neither simulated, explained nor tested.
func TestPlanningPackagesArePure(t *testing.T) {
	forbidden := map[string]string{
		"os":            "no files or environment",
		"net":           "no network",
		"log":           "no logger",
		"log/slog":      "no logger",
		"math/rand":     "no global randomness",
		"os/exec":       "no processes",
		"sync/atomic":   "no shared state",
		"runtime/debug": "no process state",
	}
	for _, p := range list(t, "./runtime/model", "./runtime/profile", "./runtime/plan", "./runtime/solver", "./runtime/schedule", "./runtime/sim", "./runtime/evaluation") {
		for _, imported := range p.Imports {
			if why, bad := forbidden[imported]; bad {
				t.Errorf("%s imports %s: %s", p.ImportPath, imported, why)
			}
			if strings.Contains(strings.Split(imported, "/")[0], ".") && !planning(imported) {
				t.Errorf("%s imports %s: planning packages use the standard library and each other only", p.ImportPath, imported)
			}
		}
	}
}

func planning(path string) bool {
	name, ok := strings.CutPrefix(path, module+"/runtime/")
	if !ok {
		return false
	}
	switch strings.Split(name, "/")[0] {
	case "model", "profile", "plan", "solver", "schedule", "sim":
		return true
	}
	return false
}

// TestRuntimeKnowsNoKubernetes: the sidecar must run where there is no cluster.
func TestRuntimeKnowsNoKubernetes(t *testing.T) {
	for _, p := range list(t, "./runtime/...", "./cmd/runtime", "./cmd/server") {
		for _, dep := range p.Deps {
			if strings.HasPrefix(dep, "k8s.io/") || strings.HasPrefix(dep, "sigs.k8s.io/") {
				t.Errorf("%s depends on %s: nothing below runtime/ knows Kubernetes", p.ImportPath, dep)
			}
		}
	}
}

// TestOnlyOnePackageUsesCgo: every other package builds and is tested without a
// C compiler.
func TestOnlyOnePackageUsesCgo(t *testing.T) {
	const door = module + "/runtime/backend/native"
	found := false
	for _, p := range list(t, "./...") {
		if len(p.CgoFiles) > 0 && p.ImportPath != door {
			t.Errorf("%s has cgo files %v: only %s may", p.ImportPath, p.CgoFiles, door)
		}
		found = found || (p.ImportPath == door && len(p.CgoFiles) > 0)
		if p.Name == "runtime" {
			t.Errorf("%s is a package named runtime, which hides Go's own", p.ImportPath)
		}
	}
	if !found {
		t.Errorf("%s has no cgo files: this test looks at the wrong place", door)
	}
}

// TestManagerAndServerHaveNoNativeCode: their images are static.
func TestManagerAndServerHaveNoNativeCode(t *testing.T) {
	for _, p := range list(t, "./cmd/manager", "./cmd/server") {
		for _, dep := range p.Deps {
			if dep == module+"/runtime/backend/native" {
				t.Errorf("%s depends on %s; it is built with CGO_ENABLED=0", p.ImportPath, dep)
			}
		}
	}
}
