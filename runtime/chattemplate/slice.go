// SPDX-License-Identifier: Apache-2.0

package chattemplate

import (
	"fmt"
	"slices"
	"strings"
)

// slice is v[from:to:step]; nil bounds are absent.
func (r *run) slice(v any, bounds [3]any) (any, error) {
	s, isString := v.(string)
	if _, isList := v.([]any); !isList && !isString {
		return nil, fmt.Errorf("%s has no slices", typeName(v))
	}
	list, err := r.items(v)
	if err != nil {
		return nil, err
	}
	n := int64(len(list))
	first, last, step, err := sliceBounds(bounds, n)
	if err != nil {
		return nil, err
	}
	if err := r.made(16 * len(list)); err != nil {
		return nil, err
	}
	var out []any
	for i := first; step > 0 && i < last || step < 0 && i > last; i += step {
		out = append(out, list[i])
		if step > n || step < -n {
			break // The next index could wrap around.
		}
	}
	if isString {
		return join(out), r.made(len(s))
	}
	return slices.Clip(out), nil
}

// sliceBounds applies the bounds to a list of n.
func sliceBounds(bounds [3]any, n int64) (first, last, step int64, err error) {
	step = 1
	if bounds[2] != nil {
		var ok bool
		if step, ok = whole(bounds[2]); !ok || step == 0 {
			return 0, 0, 0, fmt.Errorf("the step of a slice must be an integer other than 0")
		}
	}
	first, last = 0, n
	if step < 0 {
		first, last = n-1, -1
	}
	for i, bound := range []*int64{&first, &last} {
		if bounds[i] == nil {
			continue
		}
		x, ok := whole(bounds[i])
		if !ok {
			return 0, 0, 0, fmt.Errorf("a slice needs integers, not %s", typeName(bounds[i]))
		}
		*bound = clamp(x, n, step)
	}
	return first, last, step, nil
}

// clamp brings a slice bound into range, as Python does.
func clamp(x, n, step int64) int64 {
	if x < 0 {
		x += n
	}
	if step < 0 {
		return min(max(x, -1), n-1)
	}
	return min(max(x, 0), n)
}

func join(parts []any) string {
	var out strings.Builder
	for _, p := range parts {
		s, _ := p.(string)
		out.WriteString(s)
	}
	return out.String()
}
