// SPDX-License-Identifier: Apache-2.0

package chattemplate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// tojson is transformers' filter of that name: json.dumps with
// ensure_ascii=False.
func tojson(r *run, v any, a arguments) (any, error) {
	w := &jsonWriter{r: r, item: ", ", key: ": ", sorted: truth(a.get(-1, "sort_keys", false))}
	if ascii := a.get(0, "ensure_ascii", false); truth(ascii) {
		return nil, fmt.Errorf("ensure_ascii is not supported")
	}
	switch width := a.get(1, "indent", nil).(type) {
	case nil:
	case int64:
		if width < 0 || width > 16 {
			return nil, fmt.Errorf("indent must lie between 0 and 16")
		}
		w.indent, w.item = "\n"+strings.Repeat(" ", int(width)), ","
	default:
		return nil, fmt.Errorf("indent must be an integer, not %s", typeName(width))
	}
	if separators, ok := a.get(2, "separators", nil).([]any); ok {
		if len(separators) != 2 {
			return nil, fmt.Errorf("separators must be two strings")
		}
		w.item, w.key = fmt.Sprint(separators[0]), fmt.Sprint(separators[1])
	}
	if err := w.write(v, 0); err != nil {
		return nil, err
	}
	return w.out.String(), nil
}

// jsonWriter writes a value as Python's json module does.
type jsonWriter struct {
	r         *run
	out       strings.Builder
	item, key string
	// indent is a line break and one level's spaces; empty for one line.
	indent string
	sorted bool
}

func (w *jsonWriter) write(v any, depth int) error {
	if err := w.r.nested(depth); err != nil {
		return err
	}
	switch v := v.(type) {
	case nil:
		w.out.WriteString("null")
	case bool:
		w.out.WriteString(strconv.FormatBool(v))
	case int64:
		w.out.WriteString(strconv.FormatInt(v, 10))
	case float64:
		w.out.WriteString(formatFloat(v))
	case string:
		w.text(v)
		return w.r.made(len(v))
	case []any:
		return w.sequence('[', ']', len(v), depth, func(i int) error { return w.write(v[i], depth+1) })
	case *Map:
		keys := v.keys
		if w.sorted {
			keys = slices.Sorted(slices.Values(keys))
		}
		return w.sequence('{', '}', len(keys), depth, func(i int) error {
			w.text(keys[i])
			w.out.WriteString(w.key)
			if err := w.r.made(len(keys[i])); err != nil {
				return err
			}
			return w.write(v.values[keys[i]], depth+1)
		})
	default:
		return fmt.Errorf("%s cannot be written as JSON", typeName(v))
	}
	return nil
}

func (w *jsonWriter) sequence(open, closing byte, n, depth int, element func(int) error) error {
	lineBreak := func(depth int) error {
		if w.indent == "" {
			return nil
		}
		w.out.WriteByte('\n')
		w.out.WriteString(strings.Repeat(w.indent[1:], depth))
		return w.r.made(len(w.indent) * depth)
	}
	w.out.WriteByte(open)
	for i := range n {
		if i > 0 {
			w.out.WriteString(w.item)
		}
		if err := errorOr(lineBreak(depth+1), w.r.made(len(w.item)+len(w.key))); err != nil {
			return err
		}
		if err := element(i); err != nil {
			return err
		}
	}
	if n > 0 {
		if err := lineBreak(depth); err != nil {
			return err
		}
	}
	w.out.WriteByte(closing)
	return nil
}

func (w *jsonWriter) text(s string) {
	w.out.WriteByte('"')
	for _, c := range s {
		switch c {
		case '"', '\\':
			w.out.WriteByte('\\')
			w.out.WriteRune(c)
		case '\n':
			w.out.WriteString(`\n`)
		case '\r':
			w.out.WriteString(`\r`)
		case '\t':
			w.out.WriteString(`\t`)
		case '\b':
			w.out.WriteString(`\b`)
		case '\f':
			w.out.WriteString(`\f`)
		default:
			if unicode.Is(unicode.Cc, c) && c < ' ' {
				fmt.Fprintf(&w.out, `\u%04x`, c)
				continue
			}
			w.out.WriteRune(c)
		}
	}
	w.out.WriteByte('"')
}
