// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// testPaths are fixed, so that golden files do not depend on the machine.
func testPaths(o Options) Paths { return NewPaths("/cache", o.Name) }

// golden compares text with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; write it with -update", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); rewrite it with -update if this is meant:\n%s", file, diff)
	}
}

func TestFilesOfANode(t *testing.T) {
	for _, fast := range []bool{false, true} {
		t.Run(fmt.Sprintf("fast-faults=%t", fast), func(t *testing.T) {
			o := Defaults()
			o.FastFaults = fast
			files, err := nodeFiles(o, testPaths(o), 2, "overlayfs")
			if err != nil {
				t.Fatal(err)
			}
			shared, err := sharedFiles(o, testPaths(o))
			if err != nil {
				t.Fatal(err)
			}
			maps.Copy(files, shared)
			var text strings.Builder
			for _, name := range slices.Sorted(maps.Keys(files)) {
				fmt.Fprintf(&text, "-- %s --\n%s", name, files[name])
			}
			golden(t, fmt.Sprintf("files-fast-%t", fast), text.String())
		})
	}
}

func TestCommandLines(t *testing.T) {
	o := Defaults()
	o.Nodes, o.FastFaults = 1, true
	var text strings.Builder
	for _, c := range components(o, testPaths(o), "/cache/bin") {
		fmt.Fprintf(&text, "%s\n\t%s\n", c.name, strings.Join(c.args, "\n\t"))
	}
	golden(t, "commands", text.String())
}

func TestNetworkCommands(t *testing.T) {
	o := Defaults()
	var text strings.Builder
	for _, c := range networkCommands(o) {
		fmt.Fprintln(&text, "ip", strings.Join(c, " "))
	}
	golden(t, "network", text.String())
}
