// SPDX-License-Identifier: Apache-2.0

package executor

import (
	"math"

	"github.com/findep/findep-operator/runtime/model"
)

// ropeTable returns [positions, dim] values as backend.Stream's Rope wants
// them: dim/2 cosines, then dim/2 sines, times the attention factor. Angles are
// computed in float64, which is closer to the definition than the float32 of
// the usual implementations and differs from them by less than 1e-3 radians at
// position 10,000.
func ropeTable(r model.Rope, dim, positions int) []float32 {
	frequencies, factor := r.InverseFrequencies(dim), r.AttentionFactor()
	table := make([]float32, 0, positions*dim)
	for p := range positions {
		for _, f := range frequencies {
			table = append(table, float32(factor*math.Cos(float64(p)*f)))
		}
		for _, f := range frequencies {
			table = append(table, float32(factor*math.Sin(float64(p)*f)))
		}
	}
	return table
}
