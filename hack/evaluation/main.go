// SPDX-License-Identifier: Apache-2.0

// Command evaluation writes docs/evaluation.md and its plots: it runs the
// experiments of runtime/evaluation and puts their numbers into report.md.tmpl.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"gonum.org/v1/plot"
)

func main() {
	root := flag.String("root", ".", "the repository's root directory")
	flag.Parse()
	if err := run(*root); err != nil {
		fmt.Fprintln(os.Stderr, "evaluation:", err)
		os.Exit(1)
	}
}

// picture is a plot and the file it goes to.
type picture struct {
	file string
	draw func() (*plot.Plot, error)
}

func run(root string) error {
	r, err := newReport(func(step int, title string) func() {
		fmt.Fprintf(os.Stderr, "[%d/%d] %s ...", step, steps, title)
		begun := time.Now()
		return func() { fmt.Fprintf(os.Stderr, " %.1f s\n", time.Since(begun).Seconds()) }
	})
	if err != nil {
		return err
	}
	images := filepath.Join(root, "docs", "images", "evaluation")
	if err := os.MkdirAll(images, 0o755); err != nil {
		return err
	}
	for _, x := range r.pictures() {
		p, err := x.draw()
		if err != nil {
			return fmt.Errorf("%s: %w", x.file, err)
		}
		if err := save(p, images, x.file); err != nil {
			return err
		}
	}
	text, err := r.whole()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, "docs", "evaluation.md"), text, 0o644)
}
