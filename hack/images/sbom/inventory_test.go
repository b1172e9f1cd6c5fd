// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// tree is a small image: files by path.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const packages = `Package: libc6
Status: install ok installed
Version: 2.36-9+deb12u10
Description: GNU C Library
 with a second line

Package: gone
Status: deinstall ok config-files
Version: 1.0
`

const metadata = `Metadata-Version: 2.4
Name: nvidia-cublas
Version: 13.1.0.3
License: NVIDIA Proprietary Software

A text that is: not a field
`

// TestInventory looks through a tree that holds one of everything, this test's
// own program included.
func TestInventory(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	root := tree(t, map[string]string{
		dpkgStatus: packages,
		"usr/lib/findep/nvidia_cublas-13.1.0.3.dist-info/METADATA": metadata,
		"runtime":                               string(program),
		"etc/os-release":                        packages,
		dpkgStatusD + "/libopenblas-serial-dev": "Package: libopenblas-serial-dev\nStatus: install ok installed\nVersion: 0.3.21+ds-4\n",
	})
	if err := os.Symlink("/nowhere", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	output := filepath.Join(t.TempDir(), "sub", "bom.json")
	if err := run(root, "registry/runtime", "v1", output); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(output)
	if err != nil {
		t.Fatal(err)
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(written), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	var urls []string
	for _, c := range *bom.Components {
		urls = append(urls, c.PackageURL)
		if c.BOMRef == "" || c.Name == "" || c.Version == "" || c.Properties == nil {
			t.Errorf("incomplete: %+v", c)
		}
	}
	for _, want := range []string{
		"pkg:deb/debian/libc6@2.36-9%2Bdeb12u10", "pkg:pypi/nvidia-cublas@13.1.0.3", "pkg:deb/debian/libopenblas-serial-dev@0.3.21%2Bds-4",
		"pkg:golang/stdlib@", "pkg:golang/github.com/package-url/packageurl-go@v", "pkg:golang/github.com/cyclonedx/cyclonedx-go@v",
	} {
		if !slices.ContainsFunc(urls, func(u string) bool { return strings.HasPrefix(strings.ToLower(u), strings.ToLower(want)) }) {
			t.Errorf("no %s in %q", want, urls)
		}
	}
	for _, u := range urls {
		if strings.Contains(u, "gone") {
			t.Errorf("%s is not in the image", u)
		}
	}
	if !slices.IsSorted(urls) {
		t.Errorf("not sorted: %q", urls)
	}
	if err := run(root, "registry/runtime", "v1", output); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(output); err != nil || !bytes.Equal(again, written) {
		t.Errorf("a second run gave other bytes (%v)", err)
	}
}

func TestInventoryNamesWhatItCannotRead(t *testing.T) {
	for name, tc := range map[string]struct{ root, name, version, want string }{
		"no folder":       {filepath.Join(t.TempDir(), "none"), "n", "v", "no such file"},
		"no name":         {t.TempDir(), "", "v", "--name"},
		"broken packages": {tree(t, map[string]string{dpkgStatus: "no colon here\n"}), "n", "v", dpkgStatus},
	} {
		t.Run(name, func(t *testing.T) {
			err := run(tc.root, tc.name, tc.version, filepath.Join(t.TempDir(), "bom.json"))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
