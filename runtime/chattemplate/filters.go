// SPDX-License-Identifier: Apache-2.0

package chattemplate

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// filters are the words after "|". It is filled at start because map, select
// and their like call other filters and tests.
var filters map[string]func(r *run, v any, a arguments) (any, error)

func init() {
	filters = map[string]func(r *run, v any, a arguments) (any, error){
		"tojson": tojson, "default": defaulted, "d": defaulted, "items": itemsFilter,
		"trim":       func(r *run, v any, a arguments) (any, error) { return onText("strip")(r, v, a) },
		"upper":      onText("upper"),
		"lower":      onText("lower"),
		"title":      onText("title"),
		"capitalize": onText("capitalize"),
		"replace":    onText("replace"),
		"string":     func(r *run, v any, _ arguments) (any, error) { return r.str(v) },
		"safe":       func(_ *run, v any, _ arguments) (any, error) { return v, nil },
		"length":     func(_ *run, v any, _ arguments) (any, error) { return length(v) },
		"count":      func(_ *run, v any, _ arguments) (any, error) { return length(v) },
		"list":       func(r *run, v any, _ arguments) (any, error) { return r.items(v) },
		"first":      end0(0), "last": end0(-1),
		"reverse": reversed, "join": joinFilter, "indent": indent, "int": toInt, "float": toFloat, "abs": absolute,
		"map": mapFilter, "sum": sum, "unique": unique, "dictsort": dictsort,
		"select": selectFilter(true), "reject": selectFilter(false),
		"selectattr": selectAttr(true), "rejectattr": selectAttr(false),
	}
}

// onText applies a method of strings to the text of a value.
func onText(method string) func(*run, any, arguments) (any, error) {
	return func(r *run, v any, a arguments) (any, error) {
		s, err := r.str(v)
		if err != nil {
			return nil, err
		}
		return stringMethods[method](r, s, a)
	}
}

func defaulted(_ *run, v any, a arguments) (any, error) {
	_, missing := v.(undefined)
	if missing || truth(a.get(1, "boolean", false)) && !truth(v) {
		return a.get(0, "default_value", ""), nil
	}
	return v, nil
}

func itemsFilter(r *run, v any, _ arguments) (any, error) {
	switch v := v.(type) {
	case undefined:
		return []any(nil), nil
	case *Map:
		return r.pairs(v)
	}
	return nil, fmt.Errorf("%s is no mapping", typeName(v))
}

func end0(i int64) func(*run, any, arguments) (any, error) {
	return func(r *run, v any, _ arguments) (any, error) {
		list, err := r.items(v)
		return at(list, i), err
	}
}

func reversed(r *run, v any, _ arguments) (any, error) {
	list, err := r.items(v)
	if err != nil {
		return nil, err
	}
	list = slices.Clone(list)
	slices.Reverse(list)
	if s, ok := v.(string); ok {
		return join(list), r.made(len(s))
	}
	return list, r.made(16 * len(list))
}

func joinFilter(r *run, v any, a arguments) (any, error) {
	sep, err := r.str(a.get(0, "d", ""))
	if err != nil {
		return nil, err
	}
	if attribute, ok := a.get(1, "attribute", nil).(string); ok {
		if v, err = mapFilter(r, v, arguments{named: MapOf("attribute", attribute)}); err != nil {
			return nil, err
		}
	}
	return r.join(v, sep)
}

// indent puts spaces, or the string given, before every line but the first.
func indent(r *run, v any, a arguments) (any, error) {
	s, err := r.str(v)
	if err != nil {
		return nil, err
	}
	prefix, ok := a.get(0, "width", int64(4)).(string)
	if !ok {
		n, err := a.number(0, "width", 4)
		if err != nil || n < 0 || n > 1000 {
			return nil, fmt.Errorf("width must be an integer from 0 to 1000")
		}
		prefix = strings.Repeat(" ", int(n))
	}
	lines := strings.Split(s, "\n")
	if err := r.made(16*len(lines) + len(s)); err != nil {
		return nil, err
	}
	for i, l := range lines {
		inside := i > 0 && (l != "" || truth(a.get(2, "blank", false)))
		if inside || i == 0 && truth(a.get(1, "first", false)) {
			if err := r.made(len(prefix) + len(l)); err != nil {
				return nil, err
			}
			lines[i] = prefix + l
		}
	}
	return strings.Join(lines, "\n"), nil
}

func toInt(_ *run, v any, a arguments) (any, error) {
	if s, ok := v.(string); ok {
		if n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64); err == nil {
			return n, nil
		}
		if f, err := strconv.ParseFloat(strings.TrimSpace(s), 64); err == nil {
			v = f
		}
	}
	if f, ok := number(v); ok && math.Abs(f) < 1<<62 {
		return int64(f), nil
	}
	return a.get(0, "default", int64(0)), nil
}

func toFloat(_ *run, v any, a arguments) (any, error) {
	if s, ok := v.(string); ok {
		if f, err := strconv.ParseFloat(strings.TrimSpace(s), 64); err == nil {
			return f, nil
		}
	}
	if f, ok := number(v); ok {
		return f, nil
	}
	return a.get(0, "default", 0.0), nil
}

func absolute(r *run, v any, _ arguments) (any, error) {
	if f, ok := number(v); ok && f >= 0 {
		return r.arithmetic("+", int64(0), v)
	}
	return r.arithmetic("-", int64(0), v)
}

// mapFilter takes an attribute of each element or applies a filter to it.
func mapFilter(r *run, v any, a arguments) (any, error) {
	list, err := r.items(v)
	if err != nil {
		return nil, err
	}
	apply, err := mapping(a)
	if err != nil {
		return nil, err
	}
	out := make([]any, len(list))
	for i, x := range list {
		if err := r.operate(); err != nil {
			return nil, err
		}
		if out[i], err = apply(r, x); err != nil {
			return nil, err
		}
	}
	return out, r.made(16 * len(out))
}

func mapping(a arguments) (func(r *run, v any) (any, error), error) {
	if attribute, ok := a.get(-1, "attribute", nil).(string); ok {
		return func(r *run, v any) (any, error) {
			x, err := r.path(v, attribute)
			if _, missing := x.(undefined); missing {
				return a.get(-1, "default", x), err
			}
			return x, err
		}, nil
	}
	name, err := a.text(0, "the filter", "")
	if err != nil {
		return nil, err
	}
	f, ok := filters[name]
	if !ok || name == "map" {
		return nil, fmt.Errorf("the filter %.40q is not supported here", name)
	}
	return func(r *run, v any) (any, error) { return f(r, v, arguments{a.values[1:], a.named}) }, nil
}

// path follows "a.b" into a value.
func (r *run) path(v any, path string) (any, error) {
	for part := range strings.SplitSeq(path, ".") {
		var key any = part
		if n, err := strconv.ParseInt(part, 10, 64); err == nil {
			key = n
		}
		var err error
		if v, err = r.item(v, key); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// selectFilter keeps the elements for which a test holds, or does not.
func selectFilter(keep bool) func(*run, any, arguments) (any, error) {
	return func(r *run, v any, a arguments) (any, error) {
		return r.selected(v, a.values, keep, func(x any) (any, error) { return x, nil })
	}
}

func selectAttr(keep bool) func(*run, any, arguments) (any, error) {
	return func(r *run, v any, a arguments) (any, error) {
		attribute, err := a.text(0, "the attribute", "")
		if err != nil || len(a.values) == 0 {
			return nil, errorOr(err, fmt.Errorf("it needs an attribute"))
		}
		return r.selected(v, a.values[1:], keep, func(x any) (any, error) { return r.path(x, attribute) })
	}
}

func (r *run) selected(v any, test []any, keep bool, of func(any) (any, error)) (any, error) {
	holds := func(v any) (bool, error) { return truth(v), nil }
	if len(test) > 0 {
		name, _ := test[0].(string)
		f, ok := tests[name]
		if alias := map[string]string{"==": "eq", "!=": "ne", "<": "lt", ">": "gt", "<=": "le", ">=": "ge"}[name]; alias != "" {
			f, ok = tests[alias], true
		}
		if !ok {
			return nil, fmt.Errorf("the test %.40q is not supported in chat templates", name)
		}
		holds = func(v any) (bool, error) { return f(r, v, test[1:]) }
	}
	list, err := r.items(v)
	if err != nil {
		return nil, err
	}
	var out []any
	for _, x := range list {
		if err := r.operate(); err != nil {
			return nil, err
		}
		y, err := of(x)
		if err != nil {
			return nil, err
		}
		ok, err := holds(y)
		if err != nil {
			return nil, err
		}
		if ok == keep {
			out = append(out, x)
		}
	}
	return out, r.made(16 * len(out))
}

func sum(r *run, v any, a arguments) (any, error) {
	list, err := r.items(v)
	total := a.get(1, "start", int64(0))
	for _, x := range list {
		if err != nil {
			break
		}
		total, err = r.arithmetic("+", total, x)
	}
	return total, err
}

// unique compares strings without regard to case, as Jinja does.
func unique(r *run, v any, _ arguments) (any, error) {
	list, err := r.items(v)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var out []any
	for _, x := range list {
		s, err := r.str(x)
		if err != nil {
			return nil, err
		}
		key := typeName(x) + strings.ToLower(s)
		if !seen[key] {
			seen[key] = true
			out = append(out, x)
		}
	}
	return out, r.made(32 * len(out))
}

// dictsort lists the entries of a mapping by key, without regard to case.
func dictsort(r *run, v any, a arguments) (any, error) {
	m, ok := v.(*Map)
	if !ok || len(a.values) > 0 || len(a.named.Keys()) > 0 {
		return nil, fmt.Errorf("only a mapping can be sorted, and by key only")
	}
	pairs, err := r.pairs(m)
	if err != nil {
		return nil, err
	}
	list := pairs.([]any) //nolint:forcetypeassert // pairs returns nothing else.
	key := func(p any) string {
		return strings.ToLower(p.([]any)[0].(string)) //nolint:forcetypeassert // As above.
	}
	slices.SortStableFunc(list, func(a, b any) int { return strings.Compare(key(a), key(b)) })
	return list, r.made(16 * len(list))
}
