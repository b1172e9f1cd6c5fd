// SPDX-License-Identifier: Apache-2.0

package chattemplate

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A value in a template is nil (None), bool, int64, float64, string, []any,
// *Map, undefined, *namespace or callable.

// Map is a mapping that keeps the order in which keys were first set, as
// Python's does. The zero value is empty.
type Map struct {
	keys   []string
	values map[string]any
}

// MapOf returns a mapping of alternating keys (strings) and values.
func MapOf(pairs ...any) *Map {
	m := &Map{}
	for i := 0; i+1 < len(pairs); i += 2 {
		key, _ := pairs[i].(string)
		m.Set(key, pairs[i+1])
	}
	return m
}

// Set adds or replaces an entry. Values are nil, bool, int64, float64, string,
// []any or *Map.
func (m *Map) Set(key string, value any) {
	if m.values == nil {
		m.values = map[string]any{}
	}
	if _, ok := m.values[key]; !ok {
		m.keys = append(m.keys, key)
	}
	m.values[key] = value
}

// Get returns an entry.
func (m *Map) Get(key string) (any, bool) {
	v, ok := m.values[key]
	return v, ok
}

// Keys returns the keys in order. The caller must not change them.
func (m *Map) Keys() []string { return m.keys }

// undefined is the value of a name that is not set; it names it in errors.
type undefined string

// namespace is the only value that a template can change.
type namespace struct{ vars *Map }

// callable is a function of a template.
type callable func(r *run, args []any, named *Map) (any, error)

func truth(v any) bool {
	switch v := v.(type) {
	case nil, undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case []any:
		return len(v) > 0
	case *Map:
		return len(v.keys) > 0
	default:
		return true
	}
}

// typeName is what Python calls the type of v.
func typeName(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return "bool"
	case int64:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case []any:
		return "list"
	case *Map:
		return "dict"
	case undefined:
		return fmt.Sprintf("undefined value %q", string(v))
	case *namespace:
		return "namespace"
	default:
		return "function"
	}
}

// str is Python's str(v).
func (r *run) str(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case undefined:
		return "", nil
	}
	var out strings.Builder
	if err := r.repr(&out, v, 0); err != nil {
		return "", err
	}
	return out.String(), r.made(out.Len())
}

// repr writes Python's repr(v).
func (r *run) repr(out *strings.Builder, v any, depth int) error {
	if err := r.nested(depth); err != nil {
		return err
	}
	switch v := v.(type) {
	case nil:
		out.WriteString("None")
	case bool:
		out.WriteString(map[bool]string{true: "True", false: "False"}[v])
	case int64:
		out.WriteString(strconv.FormatInt(v, 10))
	case float64:
		out.WriteString(formatFloat(v))
	case string:
		quoteRepr(out, v)
		return r.made(len(v))
	case []any:
		return r.reprList(out, v, depth)
	case *Map:
		return r.reprMap(out, v, depth)
	case undefined:
		out.WriteString("Undefined")
	default:
		return fmt.Errorf("a %s has no text", typeName(v))
	}
	return nil
}

func (r *run) reprList(out *strings.Builder, list []any, depth int) error {
	out.WriteByte('[')
	for i, x := range list {
		if i > 0 {
			out.WriteString(", ")
		}
		if err := r.repr(out, x, depth+1); err != nil {
			return err
		}
	}
	out.WriteByte(']')
	return nil
}

func (r *run) reprMap(out *strings.Builder, m *Map, depth int) error {
	out.WriteByte('{')
	for i, k := range m.keys {
		if i > 0 {
			out.WriteString(", ")
		}
		quoteRepr(out, k)
		out.WriteString(": ")
		if err := r.repr(out, m.values[k], depth+1); err != nil {
			return err
		}
	}
	out.WriteByte('}')
	return nil
}

// formatFloat is Python's repr of a float: exponents from 1e16 and below 1e-4.
func formatFloat(f float64) string {
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) || math.IsInf(f, 0) || math.IsNaN(f) {
		return strings.TrimPrefix(strings.ToLower(strconv.FormatFloat(f, 'e', -1, 64)), "+")
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

func quoteRepr(out *strings.Builder, s string) {
	quote := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	out.WriteByte(quote)
	for _, c := range s {
		switch {
		case c == rune(quote) || c == '\\':
			out.WriteByte('\\')
			out.WriteRune(c)
		case c == '\n':
			out.WriteString(`\n`)
		case c == '\t':
			out.WriteString(`\t`)
		case c == '\r':
			out.WriteString(`\r`)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(out, `\x%02x`, c)
		default:
			out.WriteRune(c)
		}
	}
	out.WriteByte(quote)
}

// number returns v as a float, with booleans as 0 and 1.
func number(v any) (float64, bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case int64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// whole returns v as an integer, with booleans as 0 and 1.
func whole(v any) (int64, bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case int64:
		return v, true
	}
	return 0, false
}

// equal is Python's a == b.
func (r *run) equal(a, b any, depth int) (bool, error) {
	if err := r.nested(depth); err != nil {
		return false, err
	}
	if x, ok := number(a); ok {
		y, ok := number(b)
		return ok && x == y, nil
	}
	switch a := a.(type) {
	case nil:
		return b == nil, nil
	case string:
		s, ok := b.(string)
		return ok && a == s, r.made(min(len(a), len(s)) / 64)
	case undefined:
		_, ok := b.(undefined)
		return ok, nil
	case []any:
		list, ok := b.([]any)
		if !ok || len(a) != len(list) {
			return false, nil
		}
		return r.equalLists(a, list, depth)
	case *Map:
		m, ok := b.(*Map)
		if !ok || len(a.keys) != len(m.keys) {
			return false, nil
		}
		return r.equalMaps(a, m, depth)
	case *namespace:
		return a == b, nil
	}
	return false, nil
}

func (r *run) equalLists(a, b []any, depth int) (bool, error) {
	for i := range a {
		if same, err := r.equal(a[i], b[i], depth+1); !same || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (r *run) equalMaps(a, b *Map, depth int) (bool, error) {
	for _, k := range a.keys {
		other, ok := b.Get(k)
		if !ok {
			return false, nil
		}
		if same, err := r.equal(a.values[k], other, depth+1); !same || err != nil {
			return false, err
		}
	}
	return true, nil
}

// order is the sign of a - b for numbers and for strings.
func order(a, b any) (int, error) {
	x, ok1 := number(a)
	y, ok2 := number(b)
	if ok1 && ok2 {
		return cmp.Compare(x, y), nil
	}
	s, ok1 := a.(string)
	t, ok2 := b.(string)
	if ok1 && ok2 {
		return cmp.Compare(s, t), nil
	}
	return 0, fmt.Errorf("%s and %s have no order", typeName(a), typeName(b))
}

// contains is Python's item in v.
func (r *run) contains(v, item any) (bool, error) {
	switch v := v.(type) {
	case string:
		s, ok := item.(string)
		if !ok {
			return false, fmt.Errorf("'in' of a string needs a string, not %s", typeName(item))
		}
		return strings.Contains(v, s), r.made(len(v) / 16)
	case *Map:
		s, ok := item.(string)
		if !ok {
			return false, nil
		}
		_, found := v.Get(s)
		return found, nil
	}
	list, err := r.items(v)
	if err != nil {
		return false, err
	}
	for _, x := range list {
		if same, err := r.equal(x, item, 0); same || err != nil {
			return same, err
		}
	}
	return false, nil
}

// items is what a loop over v runs over.
func (r *run) items(v any) ([]any, error) {
	switch v := v.(type) {
	case undefined:
		return nil, nil
	case []any:
		return v, nil
	case *Map:
		out := make([]any, len(v.keys))
		for i, k := range v.keys {
			out[i] = k
		}
		return out, r.made(16 * len(out))
	case string:
		if err := r.made(16 * utf8.RuneCountInString(v)); err != nil {
			return nil, err
		}
		var out []any
		for _, c := range v {
			out = append(out, string(c))
		}
		return out, nil
	}
	return nil, fmt.Errorf("%s cannot be looped over", typeName(v))
}

func length(v any) (int64, error) {
	switch v := v.(type) {
	case string:
		return int64(utf8.RuneCountInString(v)), nil
	case []any:
		return int64(len(v)), nil
	case *Map:
		return int64(len(v.keys)), nil
	case undefined:
		return 0, nil
	}
	return 0, fmt.Errorf("%s has no length", typeName(v))
}

// item is v[key]; undefined where there is none.
func (r *run) item(v, key any) (any, error) {
	switch v := v.(type) {
	case undefined:
		return nil, fmt.Errorf("%q is undefined, so it has no entry %v", string(v), key)
	case *Map:
		if s, ok := key.(string); ok {
			if x, ok := v.Get(s); ok {
				return x, nil
			}
			return undefined(s), nil
		}
		return undefined(fmt.Sprint(key)), nil
	case string:
		if i, ok := whole(key); ok {
			list, err := r.items(v)
			if err != nil {
				return nil, err
			}
			return at(list, i), nil
		}
	case []any:
		if i, ok := whole(key); ok {
			return at(v, i), nil
		}
	}
	if s, ok := key.(string); ok {
		return r.attribute(v, s)
	}
	return undefined(fmt.Sprint(key)), nil
}

func at(list []any, i int64) any {
	if i < 0 {
		i += int64(len(list))
	}
	if i < 0 || i >= int64(len(list)) {
		return undefined(fmt.Sprintf("entry %d", i))
	}
	return list[i]
}
