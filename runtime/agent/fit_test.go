// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestFitRecoversWhatMadeThePoints: exact data give back their coefficients.
func TestFitRecoversWhatMadeThePoints(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		want := []float64{random.Float64(), random.Float64() * 1e-3, random.Float64() * 1e-6}
		var x [][]float64
		var y []float64
		for range 8 {
			n := float64(1 + random.IntN(2000))
			row := []float64{1, n, n * float64(1+random.IntN(2000))}
			x = append(x, row)
			y = append(y, want[0]*row[0]+want[1]*row[1]+want[2]*row[2])
		}
		got := fitNonNegative(x, y)
		for i := range want {
			if math.Abs(got[i]-want[i]) > 1e-6*math.Max(want[i], 1e-6) {
				t.Fatalf("coefficient %d is %g, want %g", i, got[i], want[i])
			}
		}
	}
}

func TestFitNeverGoesNegative(t *testing.T) {
	for name, tc := range map[string]struct {
		x [][]float64
		y []float64
	}{
		"falling times":       {[][]float64{{1, 1}, {1, 2}, {1, 3}}, []float64{3, 2, 1}},
		"through the origin":  {[][]float64{{1, 1}, {1, 2}, {1, 3}}, []float64{0.5, 2, 3.5}},
		"one point":           {[][]float64{{1, 5}}, []float64{10}},
		"one point repeated":  {[][]float64{{1, 5}, {1, 5}, {1, 5}}, []float64{10, 11, 12}},
		"a column of zeroes":  {[][]float64{{1, 0}, {1, 0}}, []float64{2, 4}},
		"three for one value": {[][]float64{{1, 5, 25}, {1, 5, 25}}, []float64{10, 10}},
	} {
		t.Run(name, func(t *testing.T) {
			b := fitNonNegative(tc.x, tc.y)
			worst := 0.0
			for i, row := range tc.x {
				p := 0.0
				for j, v := range row {
					if b[j] < 0 || math.IsNaN(b[j]) {
						t.Fatalf("coefficients are %v", b)
					}
					p += v * b[j]
				}
				worst = math.Max(worst, math.Abs(p-tc.y[i]))
			}
			if worst > 2 {
				t.Errorf("coefficients %v are off by %g", b, worst)
			}
		})
	}
}
