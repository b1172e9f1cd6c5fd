// SPDX-License-Identifier: Apache-2.0

package evaluation

import (
	"cmp"
	"slices"
)

// vertex is a point of a simplex and the function's value there.
type vertex struct {
	at    []float64
	value float64
}

// minimise is the simplex method of Nelder and Mead (The Computer Journal 7,
// 1965) with the usual coefficients: the fit's objective has steps, since plans
// are whole numbers, and so no gradient. It returns the best point after at
// most `steps` moves from a simplex of the given edge around start.
func minimise(f func([]float64) float64, start []float64, edge float64, steps int) vertex {
	n := len(start)
	simplex := make([]vertex, 0, n+1)
	for i := range n + 1 {
		at := slices.Clone(start)
		if i > 0 {
			at[i-1] += edge
		}
		simplex = append(simplex, vertex{at, f(at)})
	}
	byValue := func(a, b vertex) int { return cmp.Compare(a.value, b.value) }
	for range steps {
		slices.SortStableFunc(simplex, byValue)
		if simplex[n].value-simplex[0].value < 1e-9 {
			break
		}
		centre := make([]float64, n)
		for _, v := range simplex[:n] {
			for k := range centre {
				centre[k] += v.at[k] / float64(n)
			}
		}
		// along is the point beyond the centre, seen from the worst vertex.
		along := func(by float64) vertex {
			at := make([]float64, n)
			for k := range at {
				at[k] = centre[k] + by*(centre[k]-simplex[n].at[k])
			}
			return vertex{at, f(at)}
		}
		move(simplex, along, f)
	}
	slices.SortStableFunc(simplex, byValue)
	return simplex[0]
}

// move replaces the worst vertex of a sorted simplex, or shrinks the simplex.
func move(simplex []vertex, along func(float64) vertex, f func([]float64) float64) {
	n := len(simplex) - 1
	reflected := along(1)
	switch {
	case reflected.value < simplex[0].value:
		if expanded := along(2); expanded.value < reflected.value {
			reflected = expanded
		}
		simplex[n] = reflected
	case reflected.value < simplex[n-1].value:
		simplex[n] = reflected
	default:
		by := -0.5
		if reflected.value < simplex[n].value {
			by = 0.5
		}
		if contracted := along(by); contracted.value < min(reflected.value, simplex[n].value) {
			simplex[n] = contracted
			return
		}
		for i := 1; i <= n; i++ {
			for k := range simplex[i].at {
				simplex[i].at[k] = (simplex[i].at[k] + simplex[0].at[k]) / 2
			}
			simplex[i].value = f(simplex[i].at)
		}
	}
}
