// SPDX-License-Identifier: Apache-2.0

package tokenizer

import (
	"fmt"
	"strings"

	"golang.org/x/text/unicode/norm"
)

// Tokenizer maps text to token ids and back. It is immutable.
type Tokenizer struct {
	model       bpe
	preTokenize []splitter
	// normalize holds the Unicode forms applied in order before splitting.
	normalize []norm.Form
	// raw matches added tokens in the text as given, normalized those that
	// are looked for after normalization.
	raw, normalized *trie
	// bytes holds what each id decodes to; nil where the id is unused.
	bytes [][]byte
	// special marks ids that Decode leaves out.
	special map[int32]bool
	byText  map[string]int32
	prefix  []int32
	suffix  []int32
	bos     *int32
	eos     *int32
	// longest is the most bytes that one token stands for.
	longest int
}

// Encode returns the ids of text as a prompt: added tokens written out in the
// text become their ids, and the beginning-of-sequence token comes first where
// the model's configuration says so. Invalid UTF-8 is read as U+FFFD. It fails
// only when a pattern of the model's pre-tokenizer runs out of time on this
// text.
func (t *Tokenizer) Encode(text string) ([]int32, error) {
	ids := append([]int32(nil), t.prefix...)
	ids, err := t.appendText(ids, text)
	if err != nil {
		return nil, err
	}
	return append(ids, t.suffix...), nil
}

// EncodeSegment is Encode without the tokens that the configuration puts
// around a prompt. It is for text that goes inside a sequence, such as the
// output of a chat template.
func (t *Tokenizer) EncodeSegment(text string) ([]int32, error) {
	return t.appendText(nil, text)
}

func (t *Tokenizer) appendText(ids []int32, text string) ([]int32, error) {
	text = strings.ToValidUTF8(text, "\uFFFD")
	err := t.raw.split(text, func(part string, added *addedToken) error {
		if added != nil {
			ids = append(ids, added.id)
			return nil
		}
		for _, form := range t.normalize {
			part = form.String(part)
		}
		return t.normalized.split(part, func(part string, added *addedToken) error {
			if added != nil {
				ids = append(ids, added.id)
				return nil
			}
			var err error
			ids, err = t.appendPlain(ids, part)
			return err
		})
	})
	return ids, err
}

// appendPlain encodes normalized text that holds no added token.
func (t *Tokenizer) appendPlain(ids []int32, text string) ([]int32, error) {
	if text == "" {
		return ids, nil
	}
	pieces := []string{text}
	for _, s := range t.preTokenize {
		next := make([]string, 0, 2*len(pieces))
		for _, p := range pieces {
			var err error
			if next, err = s.split(next, p); err != nil {
				return nil, fmt.Errorf("tokenizer: splitting %d bytes of text: %w; send the text in smaller parts", len(p), err)
			}
		}
		pieces = next
	}
	for _, p := range pieces {
		ids = t.model.appendPiece(ids, p)
	}
	return ids, nil
}

// VocabSize is one more than the largest id, added tokens included. A model's
// embedding may have more rows.
func (t *Tokenizer) VocabSize() int { return len(t.bytes) }

// LongestToken is the most bytes of text that one token stands for, so a text
// of n bytes has at least n/LongestToken tokens unless normalization shortens
// it.
func (t *Tokenizer) LongestToken() int { return t.longest }

// BOS returns the beginning-of-sequence token, if the configuration names one.
func (t *Tokenizer) BOS() (int32, bool) { return deref(t.bos) }

// EOS returns the end-of-sequence token, if the configuration names one.
func (t *Tokenizer) EOS() (int32, bool) { return deref(t.eos) }

func deref(id *int32) (int32, bool) {
	if id == nil {
		return 0, false
	}
	return *id, true
}

// IsSpecial says whether Decode leaves the token out.
func (t *Tokenizer) IsSpecial(id int32) bool { return t.special[id] }

// ID returns the id of an added token by its text, such as "<|im_end|>".
func (t *Tokenizer) ID(content string) (int32, bool) {
	id, ok := t.byText[content]
	return id, ok
}

// TokenBytes returns the bytes that a token stands for, special tokens
// included; nil for an id that the vocabulary does not use. They need not be
// valid UTF-8 by themselves. The caller must not change them.
func (t *Tokenizer) TokenBytes(id int32) []byte {
	if id < 0 || int(id) >= len(t.bytes) {
		return nil
	}
	return t.bytes[id]
}
