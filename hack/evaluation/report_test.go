// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// The committed report is what the code writes. The two sections that take
// minutes are left to `make evaluation`.
func TestReportIsUpToDate(t *testing.T) {
	committed, err := os.ReadFile("../../docs/evaluation.md")
	if err != nil {
		t.Fatal(err)
	}
	r, err := newFastReport(func(int, string) func() { return func() {} })
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range fastSections {
		text, err := r.section(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(committed, text) {
			t.Errorf("section %q of docs/evaluation.md is out of date; run make evaluation. It should be:\n%s", name, text)
		}
	}
}

func TestPicturesAreThere(t *testing.T) {
	committed, err := os.ReadFile("../../docs/evaluation.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`\(images/evaluation/([a-z]+\.svg)\)`).FindAllSubmatch(committed, -1)
	if want := len((&report{}).pictures()); len(found) != want {
		t.Errorf("the report shows %d pictures, want %d", len(found), want)
	}
	for _, m := range found {
		svg, err := os.ReadFile(filepath.Join("../../docs/images/evaluation", string(m[1])))
		if err != nil {
			t.Error(err)
			continue
		}
		if len(svg) > 64<<10 {
			t.Errorf("%s has %d bytes; keep pictures light", m[1], len(svg))
		}
		d := xml.NewDecoder(bytes.NewReader(svg))
		for {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Errorf("%s: %v", m[1], err)
				break
			}
		}
	}
}
