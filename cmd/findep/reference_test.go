// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

const referencePage = "../../docs/reference/cli.md"

// TestReferenceIsCurrent compares docs/reference/cli.md with what the commands
// say of themselves; -update rewrites the page.
func TestReferenceIsCurrent(t *testing.T) {
	var page bytes.Buffer
	page.WriteString("# The command line\n\nWritten from the program's own help by `make generate`; do not edit.\n\n")
	root := newRoot()
	root.DisableAutoGenTag = true
	writeReference(t, &page, root)
	want := page.String()
	if *update {
		if err := os.WriteFile(referencePage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(referencePage)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s is out of date; run make generate (-commands +page):\n%s", referencePage, diff)
	}
}

func writeReference(t *testing.T, page *bytes.Buffer, c *cobra.Command) {
	t.Helper()
	// All commands are on one page, so links go to headings.
	anchor := func(file string) string {
		return "#" + strings.ReplaceAll(strings.TrimSuffix(file, ".md"), "_", "-")
	}
	if err := doc.GenMarkdownCustom(c, page, anchor); err != nil {
		t.Fatal(err)
	}
	page.WriteString("\n")
	for _, child := range c.Commands() {
		if child.IsAvailableCommand() {
			writeReference(t, page, child)
		}
	}
}
