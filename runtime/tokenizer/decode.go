// SPDX-License-Identifier: Apache-2.0

package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// Decode returns the text of ids without special tokens. Unknown ids stand for
// nothing. Bytes that are no UTF-8 come out as U+FFFD, one for each maximal
// part of a rune (Unicode 15, section 3.9, as Rust's from_utf8_lossy does).
func (t *Tokenizer) Decode(ids []int32) string {
	d := t.NewDecoder()
	var out strings.Builder
	for _, id := range ids {
		out.WriteString(d.Next(id))
	}
	out.WriteString(d.Flush())
	return out.String()
}

// Decoder decodes a sequence token by token. The parts it returns, Flush's
// last, concatenate to Decode of the whole; each part is valid UTF-8, because
// a rune whose bytes are spread over tokens is held back until it is whole.
type Decoder struct {
	t *Tokenizer
	// held is an incomplete rune: at most utf8.UTFMax-1 bytes.
	held []byte
}

// NewDecoder starts a sequence.
func (t *Tokenizer) NewDecoder() *Decoder { return &Decoder{t: t} }

// Next takes one token and returns the text that became certain with it.
func (d *Decoder) Next(id int32) string {
	if d.t.IsSpecial(id) {
		return ""
	}
	d.held = append(d.held, d.t.TokenBytes(id)...)
	return d.take(false)
}

// Flush ends the sequence and returns what was held back.
func (d *Decoder) Flush() string { return d.take(true) }

func (d *Decoder) take(final bool) string {
	var out strings.Builder
	b := d.held
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			n = maximalPart(b)
			if n == len(b) && !final && !utf8.FullRune(b) {
				break
			}
		}
		out.WriteRune(r)
		b = b[n:]
	}
	d.held = append(d.held[:0], b...)
	return out.String()
}

// maximalPart is the length of the longest start of b that could begin a rune
// but is no rune; at least 1.
func maximalPart(b []byte) int {
	for n := 1; n < len(b) && n < utf8.UTFMax; n++ {
		// FullRune is true for a start that cannot be completed.
		if utf8.FullRune(b[:n]) {
			return max(n-1, 1)
		}
	}
	if utf8.FullRune(b) {
		return max(min(len(b), utf8.UTFMax)-1, 1)
	}
	return len(b)
}
