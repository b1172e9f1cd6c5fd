// SPDX-License-Identifier: Apache-2.0

package chattemplate

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// stringMethods are Python's methods of str that templates use.
var stringMethods = map[string]func(r *run, s string, a arguments) (any, error){
	"strip":        stripMethod(strings.TrimFunc, strings.Trim),
	"lstrip":       stripMethod(strings.TrimLeftFunc, strings.TrimLeft),
	"rstrip":       stripMethod(strings.TrimRightFunc, strings.TrimRight),
	"upper":        mapped(strings.ToUpper),
	"lower":        mapped(strings.ToLower),
	"title":        mapped(title),
	"capitalize":   mapped(capitalize),
	"startswith":   affix(strings.HasPrefix),
	"endswith":     affix(strings.HasSuffix),
	"removeprefix": cutMethod(strings.TrimPrefix),
	"removesuffix": cutMethod(strings.TrimSuffix),
	"split":        func(r *run, s string, a arguments) (any, error) { return r.split(s, a, false) },
	"rsplit":       func(r *run, s string, a arguments) (any, error) { return r.split(s, a, true) },
	"splitlines":   splitlines,
	"replace":      replace,
	"find": func(r *run, s string, a arguments) (any, error) {
		sub, err := a.text(0, "sub", "")
		i := strings.Index(s, sub)
		if i > 0 {
			i = utf8.RuneCountInString(s[:i])
		}
		return int64(i), errorOr(err, r.made(len(s)/16))
	},
	"count": func(r *run, s string, a arguments) (any, error) {
		sub, err := a.text(0, "sub", "")
		return int64(strings.Count(s, sub)), errorOr(err, r.made(len(s)/16))
	},
	"join": func(r *run, s string, a arguments) (any, error) {
		return r.join(a.get(0, "iterable", nil), s)
	},
	"isdigit": func(_ *run, s string, _ arguments) (any, error) {
		return s != "" && strings.IndexFunc(s, func(c rune) bool { return !unicode.IsDigit(c) }) < 0, nil
	},
	"isspace": func(_ *run, s string, _ arguments) (any, error) {
		return s != "" && strings.TrimSpace(s) == "", nil
	},
}

func errorOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

func mapped(f func(string) string) func(*run, string, arguments) (any, error) {
	return func(r *run, s string, _ arguments) (any, error) { return f(s), r.made(2 * len(s)) }
}

func stripMethod(space func(string, func(rune) bool) string, set func(s, cutset string) string) func(*run, string, arguments) (any, error) {
	return func(r *run, s string, a arguments) (any, error) {
		chars := a.get(0, "chars", nil)
		if chars == nil {
			return space(s, unicode.IsSpace), r.made(len(s) / 16)
		}
		cutset, ok := chars.(string)
		if !ok {
			return nil, fmt.Errorf("the characters to strip must be a string, not %s", typeName(chars))
		}
		return set(s, cutset), r.made(len(s)/16 + len(cutset))
	}
}

func affix(has func(s, affix string) bool) func(*run, string, arguments) (any, error) {
	return func(_ *run, s string, a arguments) (any, error) {
		list, ok := a.get(0, "prefix", "").([]any)
		if !ok {
			x, err := a.text(0, "the affix", "")
			return has(s, x), err
		}
		for _, v := range list {
			if x, ok := v.(string); ok && has(s, x) {
				return true, nil
			}
		}
		return false, nil
	}
}

func cutMethod(cut func(s, affix string) string) func(*run, string, arguments) (any, error) {
	return func(_ *run, s string, a arguments) (any, error) {
		x, err := a.text(0, "the affix", "")
		return cut(s, x), err
	}
}

// title is Python's: a letter after anything but a letter is a capital.
func title(s string) string {
	var out strings.Builder
	inside := false
	for _, c := range s {
		if inside {
			out.WriteRune(unicode.ToLower(c))
		} else {
			out.WriteRune(unicode.ToTitle(c))
		}
		inside = unicode.IsLetter(c)
	}
	return out.String()
}

func capitalize(s string) string {
	c, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return ""
	}
	return string(unicode.ToTitle(c)) + strings.ToLower(s[n:])
}

// split is str.split and, from the right, str.rsplit.
func (r *run) split(s string, a arguments, right bool) (any, error) {
	most, err := a.number(1, "maxsplit", -1)
	if err != nil {
		return nil, err
	}
	sep := a.get(0, "sep", nil)
	var parts []string
	switch sep := sep.(type) {
	case nil:
		parts = fields(s, most, right)
	case string:
		if sep == "" {
			return nil, fmt.Errorf("the separator to split at is empty")
		}
		if err := r.made(16 * strings.Count(s, sep)); err != nil {
			return nil, err
		}
		parts = splitAt(s, sep, most, right)
	default:
		return nil, fmt.Errorf("the separator to split at must be a string, not %s", typeName(sep))
	}
	out := make([]any, len(parts))
	for i, p := range parts {
		out[i] = p
	}
	return out, r.made(16*len(parts) + len(s)/16)
}

func splitAt(s, sep string, most int64, right bool) []string {
	parts := strings.Split(s, sep)
	n := int64(len(parts)) - 1 - most
	if most < 0 || n <= 0 {
		return parts
	}
	if right {
		return append([]string{strings.Join(parts[:n+1], sep)}, parts[n+1:]...)
	}
	return append(parts[:most:most], strings.Join(parts[most:], sep))
}

// fields splits at white space.
func fields(s string, most int64, right bool) []string {
	if most < 0 {
		return strings.Fields(s)
	}
	var out []string
	for s = strings.TrimSpace(s); s != ""; most-- {
		at := strings.IndexFunc(s, unicode.IsSpace)
		if right {
			at = strings.LastIndexFunc(s, unicode.IsSpace)
		}
		if at < 0 || most == 0 {
			return append(out, s)
		}
		if right {
			_, n := utf8.DecodeRuneInString(s[at:])
			out = append([]string{s[at+n:]}, out...)
			s = strings.TrimSpace(s[:at])
			continue
		}
		out = append(out, s[:at])
		s = strings.TrimSpace(s[at:])
	}
	return out
}

func splitlines(r *run, s string, _ arguments) (any, error) {
	s = strings.ReplaceAll(s, "\r\n", "\n")
	var out []any
	for line := range strings.Lines(s) {
		out = append(out, strings.TrimSuffix(line, "\n"))
	}
	return out, r.made(16*len(out) + len(s))
}

// replace is str.replace and the filter of that name.
func replace(r *run, s string, a arguments) (any, error) {
	from, err := a.text(0, "old", "")
	if err != nil {
		return nil, err
	}
	to, err := a.text(1, "new", "")
	if err != nil {
		return nil, err
	}
	most, err := a.number(2, "count", -1)
	if err != nil {
		return nil, err
	}
	n := strings.Count(s, from)
	if most >= 0 {
		n = int(min(int64(n), most))
	}
	if len(to) > 0 && n > maxMade/len(to) {
		return nil, errMade
	}
	if err := r.made(len(s) + n*len(to)); err != nil {
		return nil, err
	}
	return strings.Replace(s, from, to, n), nil
}

// join is str.join; elements that are no strings are written as text, as the
// filter does.
func (r *run) join(v any, sep string) (any, error) {
	list, err := r.items(v)
	if err != nil {
		return nil, err
	}
	var out strings.Builder
	for i, x := range list {
		s, err := r.str(x)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			s = sep + s
		}
		if err := r.made(len(s)); err != nil {
			return nil, err
		}
		out.WriteString(s)
	}
	return out.String(), nil
}

// mapMethods are Python's methods of dict that change nothing.
var mapMethods = map[string]func(r *run, m *Map, a arguments) (any, error){
	"get": func(_ *run, m *Map, a arguments) (any, error) {
		if key, ok := a.get(0, "key", nil).(string); ok {
			if v, ok := m.Get(key); ok {
				return v, nil
			}
		}
		return a.get(1, "default", nil), nil
	},
	"keys": func(r *run, m *Map, _ arguments) (any, error) { return r.items(m) },
	"values": func(r *run, m *Map, _ arguments) (any, error) {
		out := make([]any, len(m.keys))
		for i, k := range m.keys {
			out[i] = m.values[k]
		}
		return out, r.made(16 * len(out))
	},
	"items": func(r *run, m *Map, _ arguments) (any, error) { return r.pairs(m) },
}

// pairs lists the entries of a mapping as [key, value].
func (r *run) pairs(m *Map) (any, error) {
	out := make([]any, len(m.keys))
	for i, k := range m.keys {
		out[i] = []any{k, m.values[k]}
	}
	return out, r.made(64 * len(out))
}
