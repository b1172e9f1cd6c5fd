// SPDX-License-Identifier: Apache-2.0

package agent

import "math"

// fitNonNegative solves min |X b - y| with b >= 0 by ordinary least squares,
// dropping the most negative coefficient until none is left. Times grow with
// work, so a negative coefficient is noise. Rows of X have equal length k; the
// result has length k. Columns are scaled first, since token counts and
// (query, key) pairs differ by orders of magnitude.
func fitNonNegative(x [][]float64, y []float64) []float64 {
	if len(x) == 0 {
		return nil
	}
	k := len(x[0])
	active := make([]bool, k)
	for i := range active {
		active[i] = true
	}
	for range k + 1 {
		b, ok := leastSquares(x, y, active)
		if !ok {
			// Too few distinct points: give up the last active column, which
			// is the highest-order term.
			if !dropLast(active) {
				return make([]float64, k)
			}
			continue
		}
		worst, at := -1e-15, -1
		for i, v := range b {
			if v < worst {
				worst, at = v, i
			}
		}
		if at < 0 {
			for i := range b {
				b[i] = math.Max(b[i], 0)
			}
			return b
		}
		active[at] = false
	}
	return make([]float64, k)
}

func dropLast(active []bool) bool {
	left := 0
	for _, a := range active {
		if a {
			left++
		}
	}
	if left <= 1 {
		return false
	}
	for i := len(active) - 1; i >= 0; i-- {
		if active[i] {
			active[i] = false
			return true
		}
	}
	return false
}

// leastSquares solves the normal equations over the active columns; ok is false
// when they are singular.
func leastSquares(x [][]float64, y []float64, active []bool) (b []float64, ok bool) {
	scale := columnScale(x, active)
	var cols []int
	for i, a := range active {
		if a && scale[i] > 0 {
			cols = append(cols, i)
		}
	}
	n := len(cols)
	a := make([][]float64, n)
	for i := range a {
		a[i] = make([]float64, n+1)
		for r := range x {
			xi := x[r][cols[i]] / scale[cols[i]]
			for j := range cols {
				a[i][j] += xi * x[r][cols[j]] / scale[cols[j]]
			}
			a[i][n] += xi * y[r]
		}
	}
	if !eliminate(a) {
		return nil, false
	}
	b = make([]float64, len(active))
	for i, c := range cols {
		b[c] = a[i][n] / scale[c]
	}
	return b, true
}

func columnScale(x [][]float64, active []bool) []float64 {
	scale := make([]float64, len(active))
	for _, row := range x {
		for i, v := range row {
			scale[i] = math.Max(scale[i], math.Abs(v))
		}
	}
	return scale
}

// eliminate is Gauss-Jordan with partial pivoting on an n x (n+1) matrix.
func eliminate(a [][]float64) bool {
	n := len(a)
	for i := range n {
		p := i
		for r := i + 1; r < n; r++ {
			if math.Abs(a[r][i]) > math.Abs(a[p][i]) {
				p = r
			}
		}
		if math.Abs(a[p][i]) < 1e-12 {
			return false
		}
		a[i], a[p] = a[p], a[i]
		for r := range n {
			if r == i {
				continue
			}
			f := a[r][i] / a[i][i]
			for c := i; c <= n; c++ {
				a[r][c] -= f * a[i][c]
			}
		}
	}
	for i := range n {
		a[i][n] /= a[i][i]
	}
	return true
}
