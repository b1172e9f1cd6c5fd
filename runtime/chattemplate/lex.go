// SPDX-License-Identifier: Apache-2.0

package chattemplate

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

type kind int

const (
	text kind = iota
	outputBegin
	outputEnd
	blockBegin
	blockEnd
	name
	stringLiteral
	integer
	float
	operator
	end
)

// token is a part of a template.
type token struct {
	kind  kind
	value string
	line  int
}

func (t token) String() string {
	switch t.kind {
	case end:
		return "the end of the template"
	case outputEnd, blockEnd:
		return "the end of the tag"
	default:
		return fmt.Sprintf("%.40q", t.value)
	}
}

// operators are tried in this order.
var operators = []string{"**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "|", "=", "<", ">", "(", ")", "[", "]", "{", "}", ",", ".", ":"}

// lexer cuts a template into tokens.
type lexer struct {
	rest   string
	line   int
	tokens []token
	// trim says what the tag before strips from the text after it; starting
	// that the text begins a line.
	trim     trimming
	starting bool
}

type trimming int

const (
	trimNone trimming = iota
	// trimNewline is trim_blocks: the line break after a block.
	trimNewline
	// trimSpace is "-%}".
	trimSpace
)

func lex(source string) ([]token, error) {
	source = strings.ReplaceAll(strings.ReplaceAll(source, "\r\n", "\n"), "\r", "\n")
	l := &lexer{rest: strings.TrimSuffix(source, "\n"), line: 1, starting: true}
	for l.rest != "" {
		at := tagStart(l.rest)
		if err := l.text(at); err != nil {
			return nil, err
		}
		if l.rest == "" {
			break
		}
		if err := l.tag(); err != nil {
			return nil, err
		}
	}
	l.emit(end, "")
	return l.tokens, nil
}

// tagStart is where the first tag begins, or the length of s.
func tagStart(s string) int {
	for i := 0; ; i++ {
		j := strings.IndexByte(s[i:], '{')
		if j < 0 || i+j+1 >= len(s) {
			return len(s)
		}
		i += j
		if c := s[i+1]; c == '{' || c == '%' || c == '#' {
			return i
		}
	}
}

func (l *lexer) errorf(format string, args ...any) error {
	return fmt.Errorf("line %d: %s", l.line, fmt.Sprintf(format, args...))
}

func (l *lexer) emit(k kind, value string) {
	l.tokens = append(l.tokens, token{kind: k, value: value, line: l.line})
}

// skip passes n bytes and counts their lines.
func (l *lexer) skip(n int) string {
	s := l.rest[:n]
	l.line += strings.Count(s, "\n")
	l.rest = l.rest[n:]
	return s
}

// text takes n bytes of text, stripped as the tags on both sides ask.
func (l *lexer) text(n int) error {
	out, after := l.rest[:n], l.rest[n:]
	switch l.trim {
	case trimSpace:
		out = strings.TrimLeft(out, spaces)
	case trimNewline:
		out = strings.TrimPrefix(out, "\n")
	}
	switch {
	case len(after) < 3:
	case after[2] == '-':
		out = strings.TrimRight(out, spaces)
	case after[1] != '{' && after[2] != '+':
		// lstrip_blocks: the indentation of a block that begins its line.
		stripped := strings.TrimRight(out, " \t")
		if strings.HasSuffix(stripped, "\n") || stripped == "" && l.starting {
			out = stripped
		}
	}
	if out != "" {
		l.emit(text, out)
	}
	l.skip(n)
	l.trim, l.starting = trimNone, false
	return nil
}

const spaces = " \t\n\v\f\r"

// tag takes a comment, an output or a block.
func (l *lexer) tag() error {
	opening := l.skip(2)
	if opening == "{#" {
		return l.comment()
	}
	if l.rest != "" && (l.rest[0] == '-' || l.rest[0] == '+' && opening == "{%") {
		l.skip(1)
	}
	if opening == "{{" {
		l.emit(outputBegin, opening)
		return l.expression("}}", outputEnd)
	}
	if done, err := l.raw(); done || err != nil {
		return err
	}
	l.emit(blockBegin, opening)
	return l.expression("%}", blockEnd)
}

func (l *lexer) comment() error {
	at := strings.Index(l.rest, "#}")
	if at < 0 {
		return l.errorf("a comment {# is not closed with #}")
	}
	l.closing(at, trimNewline)
	return nil
}

// closing passes the end of a tag that is at bytes away and two bytes long.
func (l *lexer) closing(at int, usual trimming) {
	l.trim = usual
	if at > 0 {
		switch l.rest[at-1] {
		case '-':
			l.trim = trimSpace
		case '+':
			l.trim = trimNone
		}
	}
	l.skip(at + 2)
	l.starting = l.trim == trimNewline && strings.HasPrefix(l.rest, "\n")
}

// raw takes {% raw %}...{% endraw %} as text.
func (l *lexer) raw() (bool, error) {
	trimmed := strings.TrimLeft(l.rest, spaces)
	inner, ok := strings.CutPrefix(trimmed, "raw")
	inner = strings.TrimLeft(inner, spaces)
	plain := strings.TrimPrefix(inner, "-")
	if !ok || !strings.HasPrefix(plain, "%}") {
		return false, nil
	}
	l.closing(strings.Index(l.rest, "%}"), trimNewline)
	for at := 0; ; at += 2 {
		next := strings.Index(l.rest[at:], "{%")
		if next < 0 {
			return true, l.errorf("{%% raw %%} is not closed with {%% endraw %%}")
		}
		at += next
		tag := strings.TrimLeft(strings.TrimLeft(l.rest[at+2:], "-+"), spaces)
		if tail, ok := strings.CutPrefix(tag, "endraw"); ok {
			if err := l.text(at); err != nil {
				return true, err
			}
			close := strings.Index(l.rest, "%}")
			if close < 0 || strings.Trim(tail[:strings.Index(tail, "%}")], "-+"+spaces) != "" {
				return true, l.errorf("{%% endraw is not closed with %%}")
			}
			l.closing(close, trimNewline)
			return true, nil
		}
	}
}

// expression takes tokens up to the closing of the tag.
func (l *lexer) expression(closing string, k kind) error {
	depth := 0
	for {
		l.skip(len(l.rest) - len(strings.TrimLeft(l.rest, spaces)))
		if l.rest == "" {
			return l.errorf("a tag is not closed with %s", closing)
		}
		if depth == 0 {
			if n := closes(l.rest, closing); n > 0 {
				l.emit(k, closing)
				usual := trimNone
				if k == blockEnd {
					usual = trimNewline
				}
				l.closing(n-2, usual)
				return nil
			}
		}
		before := len(l.tokens)
		if err := l.one(); err != nil {
			return err
		}
		if t := l.tokens[before]; t.kind == operator {
			depth += strings.Count("([{", t.value) - strings.Count(")]}", t.value)
		}
	}
}

// closes is how many bytes of s close the tag; 0 for none.
func closes(s, closing string) int {
	for _, sign := range []string{"", "-", "+"} {
		if sign == "+" && closing == "}}" {
			continue
		}
		if strings.HasPrefix(s, sign+closing) {
			return len(sign) + 2
		}
	}
	return 0
}

// one takes one token of an expression.
func (l *lexer) one() error {
	switch c := l.rest[0]; {
	case c == '"' || c == '\'':
		return l.quoted(c)
	case c >= '0' && c <= '9':
		return l.number()
	case isName(c):
		n := 0
		for n < len(l.rest) && (isName(l.rest[n]) || l.rest[n] >= '0' && l.rest[n] <= '9') {
			n++
		}
		l.emit(name, l.rest[:n])
		l.skip(n)
		return nil
	}
	for _, op := range operators {
		if strings.HasPrefix(l.rest, op) {
			l.emit(operator, op)
			l.skip(len(op))
			return nil
		}
	}
	r, _ := utf8.DecodeRuneInString(l.rest)
	return l.errorf("unexpected character %q", r)
}

func isName(c byte) bool { return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

func (l *lexer) number() error {
	n, k := 0, integer
	digits := func() {
		for n < len(l.rest) && (l.rest[n] >= '0' && l.rest[n] <= '9' || l.rest[n] == '_') {
			n++
		}
	}
	digits()
	if n+1 < len(l.rest) && l.rest[n] == '.' && l.rest[n+1] >= '0' && l.rest[n+1] <= '9' {
		n, k = n+1, float
		digits()
	}
	value := strings.ReplaceAll(l.rest[:n], "_", "")
	if _, err := strconv.ParseInt(value, 10, 64); k == integer && err != nil {
		return l.errorf("the number %.40s is too large", value)
	}
	l.emit(k, value)
	l.skip(n)
	return nil
}

// quoted takes a string literal with Python's escapes.
func (l *lexer) quoted(quote byte) error {
	var out strings.Builder
	for i := 1; i < len(l.rest); i++ {
		switch c := l.rest[i]; c {
		case quote:
			l.emit(stringLiteral, out.String())
			l.skip(i + 1)
			return nil
		case '\\':
			n, err := escape(&out, l.rest[i+1:])
			if err != nil {
				return l.errorf("%v", err)
			}
			i += n
		default:
			out.WriteByte(c)
		}
	}
	return l.errorf("a string is not closed with %c", quote)
}

var simpleEscapes = map[byte]string{'n': "\n", 't': "\t", 'r': "\r", 'b': "\b", 'f': "\f", 'v': "\v", 'a': "\a", '0': "\x00", '\\': `\`, '\'': "'", '"': `"`, '\n': ""}

// escape writes what an escape stands for and returns its length without the
// backslash. An unknown one stands for itself, as in Python.
func escape(out *strings.Builder, s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	if plain, ok := simpleEscapes[s[0]]; ok {
		out.WriteString(plain)
		return 1, nil
	}
	n := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[0]]
	if n == 0 {
		out.WriteByte('\\')
		return 0, nil
	}
	if len(s) <= n {
		return 0, fmt.Errorf(`the escape \%.10s is cut short`, s)
	}
	code, err := strconv.ParseUint(s[1:1+n], 16, 32)
	if err != nil || !utf8.ValidRune(rune(code)) {
		return 0, fmt.Errorf(`\%s is no character`, s[:1+n])
	}
	out.WriteRune(rune(code))
	return 1 + n, nil
}
