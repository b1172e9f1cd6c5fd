// SPDX-License-Identifier: Apache-2.0

package weights

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/findep/findep-operator/runtime/backend"
)

// scaleSuffix names the scales of an FP8 tensor, as DeepSeek-V3 publishes
// them: W[r, c] = value[r, c] * scale[r/rows, c/columns].
const scaleSuffix = "_scale_inv"

// e4m3 holds the numbers of the 256 FP8 E4M3 encodings (arXiv 2209.05433):
// sign, 4 bits of exponent with bias 7, 3 bits of mantissa, no infinities, and
// NaN where all exponent and mantissa bits are set.
var e4m3 = func() (table [256]float32) {
	for i := range table {
		exponent, mantissa := i>>3&15, float64(i&7)
		v := math.Ldexp(8+mantissa, exponent-10)
		switch {
		case i&0x7f == 0x7f:
			v = math.NaN()
		case exponent == 0:
			v = math.Ldexp(mantissa, -9)
		}
		if i >= 0x80 {
			v = -v
		}
		table[i] = float32(v)
	}
	return table
}()

// blockScales are the scales of one FP8 matrix of width columns, one per block
// of rows x columns; blocks at the right and lower edge may be smaller.
type blockScales struct {
	values               []float32
	rows, columns, width int
	perRow               int
}

// scales reads the scales of an FP8 matrix [rows, cols].
func (l *loader) scales(name string, rows, cols int) (*blockScales, error) {
	q := l.quantization
	if q == nil {
		return nil, fmt.Errorf("tensor %q in %s is FP8, but config.json has no quantization_config with weight_block_size; use the config.json published with the checkpoint",
			name, l.ckpt.tensors[name].source.path)
	}
	s := &blockScales{rows: q.BlockRows, columns: q.BlockColumns, width: cols, perRow: blocksIn(cols, q.BlockColumns)}
	data, dtype, err := l.ckpt.shaped(name+scaleSuffix, blocksIn(rows, q.BlockRows), s.perRow)
	if err != nil {
		return nil, fmt.Errorf("scales of FP8 tensor %q with blocks of %d x %d: %w", name, q.BlockRows, q.BlockColumns, err)
	}
	if dtype == backend.F8E4M3 {
		return nil, fmt.Errorf("tensor %q holds scales as F8_E4M3; F32, F16 and BF16 can be loaded", name+scaleSuffix)
	}
	s.values = make([]float32, len(data)/dtype.Size())
	err = guarded(fmt.Sprintf("tensor %q", name+scaleSuffix), func() error {
		widen := widenFunc(dtype)
		for i := range s.values {
			s.values[i] = widen(data[i*dtype.Size():])
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i, v := range s.values {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return nil, fmt.Errorf("tensor %q: the scale of block [%d, %d] is %v; is the download intact?", name+scaleSuffix, i/s.perRow, i%s.perRow, v)
		}
	}
	return s, nil
}

func blocksIn(size, block int) int { return (size + block - 1) / block }

// dequantise writes the numbers of in, the matrix's elements from number first
// on, as F32 or BF16. It walks runs that share a scale, because a division per
// element would cost more than the multiplication.
func (s *blockScales) dequantise(out []byte, to backend.DType, in []byte, first int) {
	for done := 0; done < len(in); {
		row, col := (first+done)/s.width, (first+done)%s.width
		run := min(s.columns-col%s.columns, s.width-col, len(in)-done)
		scale := s.values[row/s.rows*s.perRow+col/s.columns]
		for i := done; i < done+run; i++ {
			v := e4m3[in[i]] * scale
			if to == backend.F32 {
				binary.LittleEndian.PutUint32(out[4*i:], math.Float32bits(v))
			} else {
				binary.LittleEndian.PutUint16(out[2*i:], backend.Float32ToBF16(v))
			}
		}
		done += run
	}
}
