// SPDX-License-Identifier: Apache-2.0

// Command sbom writes the bill of materials of an image, or of programs, in
// CycloneDX's JSON: what is in it, in which version, and where that was read.
//
//	sbom --root DIR --name IMAGE --version V --output FILE
//
// Nothing is asked of a network and nothing depends on the time: the same tree
// gives the same bytes.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

func main() {
	root := flag.String("root", "", "folder or program to look through")
	name := flag.String("name", "", "name of the image")
	version := flag.String("version", "", "version of the image")
	output := flag.String("output", "", "file to write")
	flag.Parse()
	if err := run(*root, *name, *version, *output); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(root, name, version, output string) (err error) {
	if root == "" || name == "" || version == "" || output == "" {
		return fmt.Errorf("--root, --name, --version and --output are all needed")
	}
	bom, err := Inventory(root, name, version)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(output), 0o755); err != nil {
		return err
	}
	f, err := os.Create(output)
	if err != nil {
		return err
	}
	defer func() {
		if closed := f.Close(); err == nil {
			err = closed
		}
	}()
	return cdx.NewBOMEncoder(f, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
}
