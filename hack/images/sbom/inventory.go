// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/textproto"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/package-url/packageurl-go"
)

// module is the project's own; its version is the image's.
const module = "github.com/findep/findep-operator"

// foundIn is the property that says where a component was read.
const foundIn = "findep:foundIn"

// Debian's list of installed packages, and the folder of packages that are in an
// image without having been installed: what is linked into its programs.
const (
	dpkgStatus  = "var/lib/dpkg/status"
	dpkgStatusD = "var/lib/dpkg/status.d"
)

// Inventory lists what is in a folder, or in one program: the Go modules of
// programs, Debian's packages, Python's wheels.
func Inventory(root, name, version string) (*cdx.BOM, error) {
	found := map[string]cdx.Component{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.Type().IsRegular() {
			return nil
		}
		where, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if where == "." {
			where = filepath.Base(path)
		}
		components, err := inFile(path, where)
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		for _, c := range components {
			if _, known := found[c.BOMRef]; !known {
				found[c.BOMRef] = c
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	list := make([]cdx.Component, 0, len(found))
	for _, c := range found {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b cdx.Component) int { return cmp.Compare(a.BOMRef, b.BOMRef) })
	bom := cdx.NewBOM()
	image := packageurl.NewPackageURL(packageurl.TypeOCI, "", filepath.Base(name), version, nil, "").String()
	bom.Metadata = &cdx.Metadata{Component: &cdx.Component{
		BOMRef: image, PackageURL: image, Type: cdx.ComponentTypeContainer, Name: name, Version: version,
		Licenses: &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}},
	}}
	bom.Components = &list
	return bom, nil
}

// inFile lists what one file shows.
func inFile(path, where string) ([]cdx.Component, error) {
	switch {
	case where == dpkgStatus, filepath.Dir(where) == dpkgStatusD:
		return debian(path, where)
	case filepath.Base(path) == "METADATA" && strings.HasSuffix(filepath.Dir(path), ".dist-info"):
		return wheel(path, where)
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return nil, nil //nolint:nilerr // Not a Go program, like most files.
	}
	return goModules(info, where), nil
}

func goModules(info *debug.BuildInfo, where string) []cdx.Component {
	list := []cdx.Component{component(packageurl.TypeGolang, "", "stdlib", strings.TrimPrefix(info.GoVersion, "go"), where)}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		if m.Path == module {
			continue
		}
		namespace, name := "", m.Path
		if at := strings.LastIndexByte(m.Path, '/'); at >= 0 {
			namespace, name = m.Path[:at], m.Path[at+1:]
		}
		list = append(list, component(packageurl.TypeGolang, namespace, name, m.Version, where))
	}
	return list
}

// debian reads dpkg's list: paragraphs of fields.
func debian(path, where string) ([]cdx.Component, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var list []cdx.Component
	for paragraph := range bytes.SplitSeq(b, []byte("\n\n")) {
		fields, err := header(paragraph)
		if err != nil {
			return nil, err
		}
		if !strings.HasSuffix(fields.Get("Status"), " installed") {
			continue
		}
		list = append(list, component(packageurl.TypeDebian, "debian", fields.Get("Package"), fields.Get("Version"), where))
	}
	return list, nil
}

// wheel reads the metadata of an installed Python package.
func wheel(path, where string) ([]cdx.Component, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	head, _, _ := bytes.Cut(b, []byte("\n\n"))
	fields, err := header(head)
	if err != nil {
		return nil, err
	}
	c := component(packageurl.TypePyPi, "", strings.ToLower(fields.Get("Name")), fields.Get("Version"), where)
	if license := cmp.Or(fields.Get("License-Expression"), fields.Get("License")); license != "" {
		c.Licenses = &cdx.Licenses{{License: &cdx.License{Name: license}}}
	}
	return []cdx.Component{c}, nil
}

// header reads fields as in RFC 822, which both lists are written in.
func header(text []byte) (textproto.MIMEHeader, error) {
	text = append(bytes.TrimSpace(text), "\n\n"...)
	fields, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(text))).ReadMIMEHeader()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return fields, err
}

func component(kind, namespace, name, version, where string) cdx.Component {
	url := packageurl.NewPackageURL(kind, namespace, name, version, nil, "").String()
	full := name
	if namespace != "" && kind != packageurl.TypeDebian {
		full = namespace + "/" + name
	}
	return cdx.Component{
		BOMRef: url, PackageURL: url, Type: cdx.ComponentTypeLibrary, Name: full, Version: version,
		Properties: &[]cdx.Property{{Name: foundIn, Value: where}},
	}
}
