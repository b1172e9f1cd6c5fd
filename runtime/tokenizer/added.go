// SPDX-License-Identifier: Apache-2.0

package tokenizer

import (
	"unicode"
	"unicode/utf8"
)

// addedToken is an entry of "added_tokens": text that becomes one token
// wherever it is written out.
type addedToken struct {
	id      int32
	content string
	// singleWord asks for a non-word rune or an end on both sides.
	singleWord bool
	// stripLeft and stripRight take adjacent white space into the match.
	stripLeft, stripRight bool
}

// trie finds the longest added token that starts at a byte. Matching costs at
// most the longest content per position, however many tokens share a prefix.
type trie struct {
	next  map[byte]*trie
	token *addedToken
}

func (t *trie) insert(a *addedToken) {
	node := t
	for i := range len(a.content) {
		child := node.next[a.content[i]]
		if child == nil {
			child = &trie{}
			if node.next == nil {
				node.next = map[byte]*trie{}
			}
			node.next[a.content[i]] = child
		}
		node = child
	}
	node.token = a
}

// longest returns the longest token that text starts with, or nil.
func (t *trie) longest(text string) *addedToken {
	var found *addedToken
	node := t
	for i := range len(text) {
		if node = node.next[text[i]]; node == nil {
			break
		}
		if node.token != nil {
			found = node.token
		}
	}
	return found
}

// split calls yield for each stretch of text without added tokens and for each
// added token, leftmost and then longest first.
func (t *trie) split(text string, yield func(part string, added *addedToken) error) error {
	done := 0
	for i := 0; i < len(text); {
		a := t.longest(text[i:])
		end := i
		if a != nil {
			end = i + len(a.content)
		}
		if a == nil || a.singleWord && !standsAlone(text, i, end) {
			// Contents and text are valid UTF-8, so a match never starts
			// inside a rune; skipping the whole match is what the reference
			// does with a refused one.
			i = max(i+1, end)
			continue
		}
		start := i
		if a.stripLeft {
			start = trimSpaceLeft(text, done, i)
		}
		if a.stripRight {
			end = trimSpaceRight(text, end)
		}
		if start > done {
			if err := yield(text[done:start], nil); err != nil {
				return err
			}
		}
		if err := yield(text[start:end], a); err != nil {
			return err
		}
		done, i = end, end
	}
	if done < len(text) {
		return yield(text[done:], nil)
	}
	return nil
}

func standsAlone(text string, start, end int) bool {
	before, _ := utf8.DecodeLastRuneInString(text[:start])
	after, _ := utf8.DecodeRuneInString(text[end:])
	return (start == 0 || !isWord(before)) && (end == len(text) || !isWord(after))
}

func isWord(r rune) bool {
	return r == '_' || unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc)
}

func trimSpaceLeft(text string, from, at int) int {
	for at > from {
		r, n := utf8.DecodeLastRuneInString(text[from:at])
		if !unicode.IsSpace(r) {
			break
		}
		at -= n
	}
	return at
}

func trimSpaceRight(text string, at int) int {
	for at < len(text) {
		r, n := utf8.DecodeRuneInString(text[at:])
		if !unicode.IsSpace(r) {
			break
		}
		at += n
	}
	return at
}
