// SPDX-License-Identifier: Apache-2.0

package calibrate

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/findep/findep-operator/runtime/backend"
)

// noiseElements is the length of the pattern that fills matrices; odd, so that
// rows differ.
const noiseElements = 1<<16 - 1

// noise is a pattern of values between -1 and 1.
func noise(dtype backend.DType) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	pattern := make([]byte, 0, noiseElements*dtype.Size())
	for range noiseElements {
		v := float32(2*r.Float64() - 1)
		if dtype == backend.BF16 {
			pattern = binary.LittleEndian.AppendUint16(pattern, backend.Float32ToBF16(v))
		} else {
			pattern = binary.LittleEndian.AppendUint32(pattern, math.Float32bits(v))
		}
	}
	return pattern
}

// sizes are five different ones up to n, evenly spread: a line through them is
// not decided by the largest alone.
func sizes(n int) []int {
	var list []int
	for i := 1; i <= 5; i++ {
		if s := n * i / 5; s > 0 && (len(list) == 0 || s > list[len(list)-1]) {
			list = append(list, s)
		}
	}
	return list
}

// series are the sizes up to the largest that takes no longer than a point may.
func (b *Bench) series(most int, size func(n int) (Work, error)) ([]Work, error) {
	n, err := b.bound(most, size)
	if err != nil {
		return nil, err
	}
	var works []Work
	for _, n := range sizes(n) {
		w, err := size(n)
		if err != nil {
			return nil, err
		}
		works = append(works, w)
	}
	return works, nil
}

// bound doubles the size until the next one would take longer than a point may.
// The second run counts; the first makes caches and scratch memory.
func (b *Bench) bound(most int, size func(n int) (Work, error)) (int, error) {
	n := min(most, minTokens)
	for {
		w, err := size(n)
		if err != nil {
			return 0, err
		}
		var took time.Duration
		for range 2 {
			start := b.options.Now()
			if err := w.Run(); err != nil {
				return 0, fmt.Errorf("%s: %w", w.What, err)
			}
			took = b.options.Now().Sub(start)
		}
		if n >= most || 2*took > b.options.PointTime {
			return n, nil
		}
		n = min(2*n, most)
	}
}
