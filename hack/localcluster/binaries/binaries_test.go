// SPDX-License-Identifier: Apache-2.0

package binaries

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
)

func TestVersionsAreThoseOfTheWrapperModules(t *testing.T) {
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range catalog {
		data, err := os.ReadFile(filepath.Join(root, b.Module, "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		wanted := b.Package
		switch {
		case b.Name == "coredns": // Our own main package around the module.
			wanted = "github.com/coredns/coredns"
		case wanted == ".":
			continue
		}
		// The module is the longest required path that the package lies in.
		module, version := "", ""
		for _, m := range regexp.MustCompile(`(?m)^(?:require )?\s*(\S+) (v\S+)`).FindAllStringSubmatch(string(data), -1) {
			if (wanted == m[1] || strings.HasPrefix(wanted, m[1]+"/")) && len(m[1]) > len(module) {
				module, version = m[1], m[2]
			}
		}
		if version != b.Version {
			t.Errorf("%s: catalogue says %s, %s/go.mod requires %s %s", b.Name, b.Version, b.Module, module, version)
		}
	}
}

func TestEverySetHoldsKnownBinaries(t *testing.T) {
	for _, set := range []Set{ControlPlaneTests, Cluster, Tools, Everything} {
		names, err := set.Names()
		if err != nil || len(names) == 0 {
			t.Errorf("%s: %v, %v", set, names, err)
		}
		for _, n := range names {
			if _, err := Lookup(n); err != nil {
				t.Errorf("%s: %v", set, err)
			}
		}
	}
	if _, err := Set("nope").Names(); err == nil || !strings.Contains(err.Error(), "envtest") {
		t.Errorf("unknown set: error = %v, want one that lists the sets", err)
	}
	if _, err := Lookup("nope"); err == nil || !strings.Contains(err.Error(), "kubelet") {
		t.Errorf("unknown binary: error = %v, want one that lists the binaries", err)
	}
}

func TestKeyChangesWithEveryInput(t *testing.T) {
	base := fstest.MapFS{
		"m/go.mod":       {Data: []byte("module m")},
		"m/main.go":      {Data: []byte("package main")},
		"m/main_test.go": {Data: []byte("package main")},
		"n/go.mod":       {Data: []byte("module n")},
	}
	bin := Binary{Name: "x", Module: "m", Package: "."}
	key := func(fs fstest.MapFS, b Binary, toolchain string) string {
		t.Helper()
		k, err := b.key(fs, toolchain)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	with := func(name, content string) fstest.MapFS {
		changed := fstest.MapFS{}
		for k, v := range base {
			changed[k] = v
		}
		changed[name] = &fstest.MapFile{Data: []byte(content)}
		return changed
	}
	want := key(base, bin, "go1")
	stamped := bin
	stamped.Stamp = []string{"main.version=v2"}
	for name, got := range map[string]string{
		"go.mod":    key(with("m/go.mod", "module m // v2"), bin, "go1"),
		"go.sum":    key(with("m/go.sum", "x"), bin, "go1"),
		"source":    key(with("m/main.go", "package main // v2"), bin, "go1"),
		"flags":     key(base, stamped, "go1"),
		"toolchain": key(base, bin, "go2"),
	} {
		if got == want {
			t.Errorf("another %s gives the same key", name)
		}
	}
	for name, got := range map[string]string{
		"nothing":      key(base, bin, "go1"),
		"a test":       key(with("m/main_test.go", "package main // v2"), bin, "go1"),
		"other module": key(with("n/go.mod", "module n // v2"), bin, "go1"),
	} {
		if got != want {
			t.Errorf("a change of %s gives another key", name)
		}
	}
	if _, err := (Binary{Name: "x", Module: "gone"}).key(base, "go1"); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("missing module: error = %v, want one that names it", err)
	}
}

// testBuilder has one real, small binary of the catalogue: pause.
func testBuilder(t *testing.T, progress *strings.Builder) *Builder {
	t.Helper()
	b, err := NewBuilder(progress)
	if err != nil {
		t.Fatal(err)
	}
	b.Bin = t.TempDir()
	return b
}

func TestEnsureBuildsOnceAndAgainAfterAChange(t *testing.T) {
	var progress strings.Builder
	b := testBuilder(t, &progress)
	ensure := func() string {
		t.Helper()
		progress.Reset()
		if err := b.Ensure(t.Context(), "pause"); err != nil {
			t.Fatal(err)
		}
		return progress.String()
	}
	if got := ensure(); !strings.Contains(got, "[1/1] pause") {
		t.Errorf("first build reports %q, want [1/1] pause", got)
	}
	if got := ensure(); got != "" {
		t.Errorf("second build reports %q, want nothing", got)
	}
	bin, err := Lookup("pause")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stampPath(b.Bin, bin), []byte("outdated"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := ensure(); !strings.Contains(got, "built in") {
		t.Errorf("build with an outdated stamp reports %q", got)
	}
	if err := os.Remove(b.Path("pause")); err != nil {
		t.Fatal(err)
	}
	if got := ensure(); !strings.Contains(got, "built in") {
		t.Errorf("build of a deleted binary reports %q", got)
	}
}

func TestEnsureWaitsForAnotherBuild(t *testing.T) {
	var progress strings.Builder
	first := testBuilder(t, &progress)
	if err := os.MkdirAll(filepath.Join(first.Bin, ".stamps"), 0o755); err != nil {
		t.Fatal(err)
	}
	bin, err := Lookup("pause")
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := first.lock(t.Context(), bin, "")
	if err != nil {
		t.Fatal(err)
	}
	waiting, done := make(chan struct{}), make(chan error, 1)
	second := &Builder{Root: first.Root, Bin: first.Bin, Progress: notify{"waiting for another build", waiting}, Tick: first.Tick}
	go func() { done <- second.Ensure(t.Context(), "pause") }()
	select {
	case <-waiting:
	case err := <-done:
		t.Fatalf("the second builder did not wait: %v", err)
	}
	if _, err := os.Stat(first.Path("pause")); err == nil {
		t.Error("the second builder built while the first held the lock")
	}
	unlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// notify closes seen when text is first written.
type notify struct {
	text string
	seen chan struct{}
}

func (n notify) Write(p []byte) (int, error) {
	if strings.Contains(string(p), n.text) {
		close(n.seen)
	}
	return len(p), nil
}

func TestAFailedBuildSaysWhyAndLeavesNothing(t *testing.T) {
	var progress strings.Builder
	b := testBuilder(t, &progress)
	bin := Binary{Name: "x", Module: pauseModule, Package: "./missing"}
	if err := b.compile(t.Context(), bin, ""); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("error = %v, want the compiler's complaint", err)
	}
	if entries, err := os.ReadDir(b.Bin); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
