// SPDX-License-Identifier: Apache-2.0

package chattemplate

import (
	"fmt"
	"strings"
)

// arguments are those of a filter, method or function.
type arguments struct {
	values []any
	named  *Map
}

// get is the argument at a position or with a name; fallback where there is
// none.
func (a arguments) get(i int, name string, fallback any) any {
	if i >= 0 && i < len(a.values) {
		return a.values[i]
	}
	if v, ok := a.named.Get(name); ok {
		return v
	}
	return fallback
}

// text is a string argument.
func (a arguments) text(i int, name, fallback string) (string, error) {
	v := a.get(i, name, fallback)
	s, ok := v.(string)
	if !ok {
		return "", fmt.Errorf("%s must be a string, not %s", name, typeName(v))
	}
	return s, nil
}

// number is an integer argument.
func (a arguments) number(i int, name string, fallback int64) (int64, error) {
	v := a.get(i, name, fallback)
	n, ok := whole(v)
	if !ok {
		return 0, fmt.Errorf("%s must be an integer, not %s", name, typeName(v))
	}
	return n, nil
}

// functions are those that every template has.
var functions = map[string]callable{
	"namespace":       newNamespace,
	"dict":            newDict,
	"range":           newRange,
	"raise_exception": raiseException,
	"strftime_now":    strftimeNow,
}

func newNamespace(r *run, args []any, named *Map) (any, error) {
	m, err := newDict(r, args, named)
	if err != nil {
		return nil, err
	}
	return &namespace{vars: m.(*Map)}, nil //nolint:forcetypeassert // newDict returns nothing else.
}

func newDict(r *run, args []any, named *Map) (any, error) {
	out := &Map{}
	for _, a := range args {
		from, ok := a.(*Map)
		if !ok {
			return nil, fmt.Errorf("a dict cannot be made of %s", typeName(a))
		}
		for _, k := range from.keys {
			out.Set(k, from.values[k])
		}
	}
	for _, k := range named.keys {
		out.Set(k, named.values[k])
	}
	return out, r.made(64 * len(out.keys))
}

func newRange(r *run, args []any, _ *Map) (any, error) {
	bounds := make([]int64, len(args))
	for i, a := range args {
		n, ok := whole(a)
		if !ok {
			return nil, fmt.Errorf("range needs integers, not %s", typeName(a))
		}
		bounds[i] = n
	}
	switch len(bounds) {
	case 1:
		bounds = []int64{0, bounds[0], 1}
	case 2:
		bounds = []int64{bounds[0], bounds[1], 1}
	case 3:
	default:
		return nil, fmt.Errorf("range takes 1 to 3 integers, not %d", len(args))
	}
	first, last, step := bounds[0], bounds[1], bounds[2]
	if step == 0 {
		return nil, fmt.Errorf("range needs a step other than 0")
	}
	var out []any
	for i := first; step > 0 && i < last || step < 0 && i > last; i += step {
		if err := r.made(16); err != nil {
			return nil, err
		}
		if err := r.operate(); err != nil {
			return nil, err
		}
		out = append(out, i)
		if next := i + step; (step > 0) != (next > i) {
			break // The next integer would wrap around.
		}
	}
	return out, nil
}

func raiseException(r *run, args []any, named *Map) (any, error) {
	message, err := r.str(arguments{args, named}.get(0, "message", "the chat template refuses these messages"))
	if err != nil {
		return nil, err
	}
	return nil, &RaisedError{Message: message}
}

// strftime maps the directives of strftime to layouts of package time.
var strftime = map[byte]string{
	'a': "Mon", 'A': "Monday", 'b': "Jan", 'B': "January", 'd': "02", 'm': "01", 'y': "06", 'Y': "2006", 'H': "15", 'I': "03",
	'M': "04", 'S': "05", 'p': "PM", 'j': "002", 'Z': "MST", 'z': "-0700", 'F': "2006-01-02", 'T': "15:04:05", 'D': "01/02/06", 'e': "_2",
}

func strftimeNow(r *run, args []any, named *Map) (any, error) {
	format, err := arguments{args, named}.text(0, "format", "%Y-%m-%d")
	if err != nil {
		return nil, err
	}
	var out strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			out.WriteByte(format[i])
			continue
		}
		i++
		layout, ok := strftime[format[i]]
		switch {
		case ok:
			out.WriteString(r.now.Format(layout))
		case format[i] == '%':
			out.WriteByte('%')
		default:
			return nil, fmt.Errorf("strftime_now does not know %%%c", format[i])
		}
		if err := r.made(16); err != nil {
			return nil, err
		}
	}
	return out.String(), r.made(len(format))
}

// tests are the words after "is".
var tests = map[string]func(r *run, v any, args []any) (bool, error){
	"defined":   func(_ *run, v any, _ []any) (bool, error) { _, un := v.(undefined); return !un, nil },
	"undefined": func(_ *run, v any, _ []any) (bool, error) { _, un := v.(undefined); return un, nil },
	"none":      func(_ *run, v any, _ []any) (bool, error) { return v == nil, nil },
	"true":      func(_ *run, v any, _ []any) (bool, error) { return v == true, nil },
	"false":     func(_ *run, v any, _ []any) (bool, error) { return v == false, nil },
	"boolean":   ofTypes("bool"),
	"string":    ofTypes("str"),
	"integer":   ofTypes("int"),
	"float":     ofTypes("float"),
	"number":    ofTypes("int", "float", "bool"),
	"mapping":   ofTypes("dict"),
	"sequence":  ofTypes("str", "list", "dict"),
	"iterable":  ofTypes("str", "list", "dict"),
	"callable":  ofTypes("function"),
	"odd":       func(_ *run, v any, _ []any) (bool, error) { return remainder(v, int64(2), 1) },
	"even":      func(_ *run, v any, _ []any) (bool, error) { return remainder(v, int64(2), 0) },
	"divisibleby": func(_ *run, v any, args []any) (bool, error) {
		if len(args) != 1 {
			return false, fmt.Errorf("divisibleby needs an integer")
		}
		return remainder(v, args[0], 0)
	},
	"in": func(r *run, v any, args []any) (bool, error) {
		if len(args) != 1 {
			return false, fmt.Errorf("in needs one value")
		}
		return r.contains(args[0], v)
	},
	"equalto": comparing("=="), "eq": comparing("=="), "ne": comparing("!="),
	"lt": comparing("<"), "le": comparing("<="), "gt": comparing(">"), "ge": comparing(">="),
}

func ofTypes(names ...string) func(*run, any, []any) (bool, error) {
	return func(_ *run, v any, _ []any) (bool, error) {
		for _, n := range names {
			if typeName(v) == n {
				return true, nil
			}
		}
		return false, nil
	}
}

func comparing(op string) func(*run, any, []any) (bool, error) {
	return func(r *run, v any, args []any) (bool, error) {
		if len(args) != 1 {
			return false, fmt.Errorf("the test %s needs one value", op)
		}
		return r.compare(op, v, args[0])
	}
}

func remainder(v, by any, want int64) (bool, error) {
	n, ok1 := whole(v)
	d, ok2 := whole(by)
	if !ok1 || !ok2 || d == 0 {
		return false, fmt.Errorf("%s is not divisible by %s", typeName(v), typeName(by))
	}
	return ((n%d)+d)%d == want, nil
}
