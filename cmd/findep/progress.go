// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"
)

// progressBar draws how much of a known amount of work is done. It writes only
// when the picture changes.
type progressBar struct {
	out         io.Writer
	total, done int
	drawn       int
	// label, if set, says before the bar what is done.
	label string
}

const progressWidth = 40

func (b *progressBar) step() {
	b.done++
	filled := progressWidth * b.done / max(1, b.total)
	if filled == b.drawn && b.done < b.total {
		return
	}
	b.drawn = filled
	_, _ = fmt.Fprintf(b.out, "\r%s[%s%s] %d/%d", b.prefix(), strings.Repeat("#", filled), strings.Repeat(".", progressWidth-filled), b.done, b.total)
}

func (b *progressBar) prefix() string {
	if b.label == "" {
		return ""
	}
	return fmt.Sprintf("%-16s", b.label)
}

// end leaves the cursor on a new line if anything was drawn.
func (b *progressBar) end() {
	if b.drawn > 0 || b.done > 0 {
		_, _ = fmt.Fprintln(b.out)
	}
}
