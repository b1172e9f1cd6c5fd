// SPDX-License-Identifier: Apache-2.0

package chattemplate

import (
	"fmt"
	"math"
	"strings"
)

// arithmetic applies an operator as Python does.
func (r *run) arithmetic(op string, a, b any) (any, error) {
	if op == "~" {
		return r.joined(a, b)
	}
	switch x := a.(type) {
	case string:
		if y, ok := b.(string); ok && op == "+" {
			return x + y, r.made(len(x) + len(y))
		}
		if n, ok := whole(b); ok && op == "*" {
			return r.repeat(x, n)
		}
	case []any:
		if y, ok := b.([]any); ok && op == "+" {
			return append(append(make([]any, 0, len(x)+len(y)), x...), y...), r.made(16 * (len(x) + len(y)))
		}
	}
	i, ok1 := whole(a)
	j, ok2 := whole(b)
	if ok1 && ok2 {
		return integers(op, i, j)
	}
	x, ok1 := number(a)
	y, ok2 := number(b)
	if ok1 && ok2 {
		return floats(op, x, y)
	}
	return nil, fmt.Errorf("%s %s %s is not possible", typeName(a), op, typeName(b))
}

func (r *run) joined(a, b any) (any, error) {
	x, err := r.str(a)
	if err != nil {
		return nil, err
	}
	y, err := r.str(b)
	if err != nil {
		return nil, err
	}
	return x + y, r.made(len(x) + len(y))
}

func (r *run) repeat(s string, n int64) (any, error) {
	if n <= 0 || s == "" {
		return "", nil
	}
	if n > maxMade/int64(len(s)) {
		return nil, errMade
	}
	if err := r.made(len(s) * int(n)); err != nil {
		return nil, err
	}
	return strings.Repeat(s, int(n)), nil
}

func integers(op string, a, b int64) (any, error) {
	switch op {
	case "+":
		return a + b, nil
	case "-":
		return a - b, nil
	case "*":
		return a * b, nil
	case "//", "%":
		if b == 0 {
			return nil, fmt.Errorf("division by 0")
		}
		q, m := a/b, a%b
		if m != 0 && (m < 0) != (b < 0) {
			q, m = q-1, m+b
		}
		if op == "//" {
			return q, nil
		}
		return m, nil
	case "**":
		f := math.Pow(float64(a), float64(b))
		if b >= 0 && math.Abs(f) < 1<<53 {
			return int64(f), nil
		}
		return f, nil
	}
	return floats(op, float64(a), float64(b))
}

func floats(op string, a, b float64) (any, error) {
	if b == 0 && (op == "/" || op == "//" || op == "%") {
		return nil, fmt.Errorf("division by 0")
	}
	switch op {
	case "+":
		return a + b, nil
	case "-":
		return a - b, nil
	case "*":
		return a * b, nil
	case "/":
		return a / b, nil
	case "//":
		return math.Floor(a / b), nil
	case "%":
		return a - b*math.Floor(a/b), nil
	default:
		return math.Pow(a, b), nil
	}
}
