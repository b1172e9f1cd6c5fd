// SPDX-License-Identifier: Apache-2.0

package weights

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/model"
)

// The corners of E4M3, from table 1 of arXiv 2209.05433.
func TestE4M3Numbers(t *testing.T) {
	want := map[byte]float32{
		0x00: 0, 0x01: 1. / 512, 0x07: 7. / 512, 0x08: 1. / 64, 0x38: 1, 0x39: 1.125, 0x40: 2, 0x7e: 448, 0xb8: -1, 0xfe: -448, 0x81: -1. / 512,
	}
	for code, v := range want {
		if e4m3[code] != v {
			t.Errorf("%#02x is %v, want %v", code, e4m3[code], v)
		}
	}
	for code, v := range e4m3 {
		if nan := code&0x7f == 0x7f; nan != math.IsNaN(float64(v)) {
			t.Errorf("%#02x is %v", code, v)
		}
		if code > 0 && code < 0x7f && !(v > e4m3[code-1]) {
			t.Errorf("%#02x is %v, not above its predecessor's %v", code, v, e4m3[code-1])
		}
	}
}

// tensor is one tensor of a file that a test writes.
type tensor struct {
	name, dtype string
	shape       []int
	data        []byte
}

func saveTensors(t testing.TB, tensors ...tensor) *Checkpoint {
	t.Helper()
	header := map[string]any{}
	var data []byte
	for _, x := range tensors {
		header[x.name] = map[string]any{"dtype": x.dtype, "shape": x.shape, "data_offsets": []int{len(data), len(data) + len(x.data)}}
		data = append(data, x.data...)
	}
	raw, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	save(t, dir, SingleFile, file(string(raw), data))
	c, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func f32Bytes(v ...float32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

// codes are n FP8 encodings without NaN.
func codes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*37) & 0xfe
	}
	return b
}

func quantizedLoader(t testing.TB, c *Checkpoint, q *model.Quantization, to backend.DType) *loader {
	t.Helper()
	l, err := newLoader(device(t), c, &model.Shape{Quantization: q}, Options{DType: to})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { freeAll(l.buffers); _ = l.stream.Close() })
	return l
}

// Every element is multiplied by the scale of its block, also where the last
// blocks are cut off, where scales are stored in two bytes, and where a matrix
// is longer than what is converted at a time.
func TestFP8MatricesAreDequantisedBlockByBlock(t *testing.T) {
	tests := map[string]struct {
		rows, cols int
		block      model.Quantization
		to         backend.DType
	}{
		"whole blocks":          {8, 12, model.Quantization{BlockRows: 4, BlockColumns: 3}, backend.F32},
		"cut blocks":            {7, 11, model.Quantization{BlockRows: 4, BlockColumns: 3}, backend.F32},
		"block beyond matrix":   {5, 6, model.Quantization{BlockRows: 128, BlockColumns: 128}, backend.F32},
		"single elements":       {3, 4, model.Quantization{BlockRows: 1, BlockColumns: 1}, backend.F32},
		"to BF16":               {7, 11, model.Quantization{BlockRows: 2, BlockColumns: 5}, backend.BF16},
		"longer than a staging": {3, stagingElements/2 + 77, model.Quantization{BlockRows: 2, BlockColumns: 128}, backend.F32},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			perRow := (tc.cols + tc.block.BlockColumns - 1) / tc.block.BlockColumns
			down := (tc.rows + tc.block.BlockRows - 1) / tc.block.BlockRows
			scales, data := make([]float32, down*perRow), codes(tc.rows*tc.cols)
			for i := range scales {
				scales[i] = 0.5 + float32(i%97)/64
			}
			c := saveTensors(t,
				tensor{"w", "F8_E4M3", []int{tc.rows, tc.cols}, data},
				tensor{"w_scale_inv", "F32", []int{down, perRow}, f32Bytes(scales...)})
			l := quantizedLoader(t, c, &tc.block, tc.to)
			var m backend.Matrix
			if err := l.linear(&m, "w", tc.rows, tc.cols); err != nil {
				t.Fatal(err)
			}
			want := make([]float32, tc.rows*tc.cols)
			for r := range tc.rows {
				for col := range tc.cols {
					want[r*tc.cols+col] = e4m3[data[r*tc.cols+col]] * scales[r/tc.block.BlockRows*perRow+col/tc.block.BlockColumns]
				}
			}
			if diff := cmp.Diff(want, stored(t, l, m), cmpopts.EquateApprox(map[backend.DType]float64{backend.BF16: 0.004}[tc.to], 0)); diff != "" {
				t.Errorf("%.2000s", diff)
			}
		})
	}
}

// stored reads a matrix back as F32.
func stored(t *testing.T, l *loader, m backend.Matrix) []float32 {
	t.Helper()
	raw := make([]byte, m.Rows*m.Cols*m.DType.Size())
	if err := l.stream.CopyOut(raw, m.Buffer, m.Offset*int64(m.DType.Size())); err != nil {
		t.Fatal(err)
	}
	if err := l.stream.Synchronize(); err != nil {
		t.Fatal(err)
	}
	v := make([]float32, m.Rows*m.Cols)
	for i := range v {
		v[i] = widenFunc(m.DType)(raw[i*m.DType.Size():])
	}
	return v
}

func TestFP8ErrorsNameTheTensor(t *testing.T) {
	weight := tensor{"w", "F8_E4M3", []int{4, 6}, codes(24)}
	scale := func(dtype string, shape []int, data []byte) tensor { return tensor{"w_scale_inv", dtype, shape, data} }
	good := scale("F32", []int{2, 2}, f32Bytes(1, 2, 3, 4))
	block := &model.Quantization{DType: model.Float8, BlockRows: 2, BlockColumns: 3}
	tests := map[string]struct {
		quantization *model.Quantization
		tensors      []tensor
		want         []string
	}{
		"no quantization_config": {nil, []tensor{weight, good}, []string{`"w"`, "weight_block_size", SingleFile}},
		"no scales":              {block, []tensor{weight}, []string{`"w"`, `"w_scale_inv" is missing`}},
		"scales of other blocks": {block, []tensor{weight, scale("F32", []int{2, 1}, f32Bytes(1, 2))}, []string{`"w_scale_inv"`, "[2 1]", "[2 2]", "2 x 3"}},
		"scales as integers":     {block, []tensor{weight, scale("I32", []int{2, 2}, make([]byte, 16))}, []string{`"w_scale_inv"`, "I32"}},
		"scales as FP8":          {block, []tensor{weight, scale("F8_E4M3", []int{2, 2}, make([]byte, 4))}, []string{`"w_scale_inv"`, "F8_E4M3"}},
		"scale is NaN":           {block, []tensor{weight, scale("F32", []int{2, 2}, f32Bytes(1, 2, float32(math.NaN()), 4))}, []string{`"w_scale_inv"`, "[1, 0]", "NaN"}},
		"scale is infinite":      {block, []tensor{weight, scale("F32", []int{2, 2}, f32Bytes(1, float32(math.Inf(1)), 3, 4))}, []string{`"w_scale_inv"`, "[0, 1]", "Inf"}},
		"E5M2":                   {block, []tensor{{"w", "F8_E5M2", []int{4, 6}, codes(24)}, good}, []string{`"w"`, "F8_E5M2"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			l := quantizedLoader(t, saveTensors(t, tc.tensors...), tc.quantization, backend.F32)
			var m backend.Matrix
			err := l.linear(&m, "w", 4, 6)
			if err == nil {
				t.Fatal("loaded")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not mention %q", err, want)
				}
			}
		})
	}
	l := quantizedLoader(t, saveTensors(t, tensor{"norm", "F8_E4M3", []int{6}, codes(6)}), block, backend.F32)
	var m backend.Matrix
	if err := l.vector(&m, "norm", 6); err == nil || !strings.Contains(err.Error(), `"norm"`) {
		t.Errorf("a norm in FP8: %v", err)
	}
}

// Scales in two bytes give the numbers that scales in four give.
func TestFP8ScalesMayBeStoredInTwoBytes(t *testing.T) {
	block := &model.Quantization{BlockRows: 2, BlockColumns: 3}
	c := saveTensors(t,
		tensor{"w", "F8_E4M3", []int{2, 3}, bytes.Repeat([]byte{0x38}, 6)},
		tensor{"w_scale_inv", "BF16", []int{1, 1}, []byte{0xc0, 0x3f}})
	l := quantizedLoader(t, c, block, backend.F32)
	var m backend.Matrix
	if err := l.linear(&m, "w", 2, 3); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]float32{1.5, 1.5, 1.5, 1.5, 1.5, 1.5}, stored(t, l, m)); diff != "" {
		t.Error(diff)
	}
}

// Whatever sizes a matrix and its blocks have, no element is left out and none
// takes another block's scale, even when the matrix comes in pieces.
func FuzzDequantise(f *testing.F) {
	f.Add(uint8(7), uint8(11), uint8(4), uint8(3), uint8(5), []byte{1, 2, 3})
	f.Add(uint8(1), uint8(1), uint8(128), uint8(128), uint8(1), []byte{0x7f})
	f.Fuzz(func(t *testing.T, rows, cols, blockRows, blockColumns, piece uint8, data []byte) {
		height, width, piecewise := int(rows%32)+1, int(cols%32)+1, int(piece)+1
		s := &blockScales{rows: int(blockRows) + 1, columns: int(blockColumns) + 1, width: width}
		s.perRow = blocksIn(width, s.columns)
		for i := range blocksIn(height, s.rows) * s.perRow {
			s.values = append(s.values, float32(i+1))
		}
		in := make([]byte, height*width)
		copy(in, data)
		out := make([]byte, 4*len(in))
		for done := 0; done < len(in); done += piecewise {
			end := min(done+piecewise, len(in))
			s.dequantise(out[4*done:4*end], backend.F32, in[done:end], done)
		}
		for i, code := range in {
			want := e4m3[code] * s.values[i/width/s.rows*s.perRow+i%width/s.columns]
			if got := math.Float32frombits(binary.LittleEndian.Uint32(out[4*i:])); got != want && (got == got || want == want) {
				t.Fatalf("element %d is %v, want %v", i, got, want)
			}
		}
	})
}
