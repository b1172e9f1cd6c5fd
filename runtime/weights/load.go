// SPDX-License-Identifier: Apache-2.0

package weights

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/model"
)

// Options choose how weights are stored on the device.
type Options struct {
	// DType of the matrices of linear layers and the embedding: F32 (the zero
	// value) or BF16. Norms, the router and its bias are always F32, because
	// they are small and routing must not depend on the choice.
	DType backend.DType
	// Progress, if set, is called with the name of each tensor before it is
	// copied.
	Progress func(tensor string)
}

// stagingElements is the number of elements converted at a time, so that
// loading needs little memory beside the weights.
const stagingElements = 256 << 10

// loader copies tensors into device memory and remembers the buffers.
type loader struct {
	dev     backend.Device
	stream  backend.Stream
	ckpt    *Checkpoint
	dtype   backend.DType
	staging []byte
	buffers []backend.Buffer
	// progress is Options.Progress, never nil.
	progress func(tensor string)
	// quantization is nil unless config.json announces FP8 weights.
	quantization *model.Quantization
}

func newLoader(dev backend.Device, ckpt *Checkpoint, shape *model.Shape, o Options) (*loader, error) {
	if o.DType != backend.F32 && o.DType != backend.BF16 {
		return nil, fmt.Errorf("weights cannot be stored as %s; use F32 or BF16", o.DType)
	}
	for _, op := range []backend.Op{backend.OpEmbed, backend.OpMatMul, backend.OpHeadMatMul, backend.OpExpertMLP} {
		if !dev.Supports(op, o.DType) {
			return nil, fmt.Errorf("device %s has no %s weights for operation %d; use F32", dev.Name(), o.DType, op)
		}
	}
	stream, err := dev.NewStream(1)
	if err != nil {
		return nil, fmt.Errorf("stream for loading weights: %w", err)
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	return &loader{
		progress: o.Progress,
		dev:      dev, stream: stream, ckpt: ckpt, dtype: o.DType, staging: make([]byte, stagingElements*4), quantization: shape.Quantization,
	}, nil
}

// finish closes the stream and, after a failure, frees what was loaded.
func (l *loader) finish(err error) error {
	if err == nil {
		err = l.stream.Synchronize()
	}
	if cerr := l.stream.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		freeAll(l.buffers)
		l.buffers = nil
	}
	return err
}

func freeAll(buffers []backend.Buffer) {
	for _, b := range buffers {
		b.Free()
	}
}

// alloc reserves a matrix that stack fills.
func (l *loader) alloc(dtype backend.DType, rows, cols int) (backend.Matrix, error) {
	m, err := backend.AllocMatrix(l.dev, dtype, rows, cols)
	if err != nil {
		return m, fmt.Errorf("device memory for a weight of %d x %d %s: %w", rows, cols, dtype, err)
	}
	l.buffers = append(l.buffers, m.Buffer)
	return m, nil
}

// linear loads a matrix [rows, cols] in the chosen type.
func (l *loader) linear(dst *backend.Matrix, name string, rows, cols int) error {
	return l.stack(dst, l.dtype, []part{{name, rows}}, cols)
}

// exact loads a matrix [rows, cols] as F32.
func (l *loader) exact(dst *backend.Matrix, name string, rows, cols int) error {
	return l.stack(dst, backend.F32, []part{{name, rows}}, cols)
}

// vector loads a vector as an F32 matrix of one row.
func (l *loader) vector(dst *backend.Matrix, name string, n int) error {
	m, err := l.alloc(backend.F32, 1, n)
	if err != nil {
		return err
	}
	data, dtype, err := l.ckpt.shaped(name, n)
	if err != nil {
		return err
	}
	if dtype == backend.F8E4M3 {
		return fmt.Errorf("tensor %q in %s is FP8; norms and biases must be F32, F16 or BF16", name, l.ckpt.tensors[name].source.path)
	}
	*dst = m
	return l.copy(name, m, data, dtype, nil)
}

// part is a tensor of some rows within a stacked matrix.
type part struct {
	name string
	rows int
}

// stack loads tensors with equal columns below each other into one matrix.
func (l *loader) stack(dst *backend.Matrix, dtype backend.DType, parts []part, cols int) error {
	rows := 0
	for _, p := range parts {
		rows += p.rows
	}
	m, err := l.alloc(dtype, rows, cols)
	if err != nil {
		return err
	}
	at := 0
	for _, p := range parts {
		data, from, err := l.ckpt.shaped(p.name, p.rows, cols)
		if err != nil {
			return err
		}
		var scales *blockScales
		if from == backend.F8E4M3 {
			if scales, err = l.scales(p.name, p.rows, cols); err != nil {
				return err
			}
		}
		if err := l.copy(p.name, m.RowRange(at, at+p.rows), data, from, scales); err != nil {
			return err
		}
		at += p.rows
	}
	*dst = m
	return nil
}

// copy converts data to the type of m, a contiguous matrix, and copies it.
// scales are nil unless data are FP8.
func (l *loader) copy(name string, m backend.Matrix, data []byte, from backend.DType, scales *blockScales) error {
	l.progress(name)
	return guarded(fmt.Sprintf("tensor %q", name), func() error {
		to := m.DType
		for done, total := 0, len(data)/from.Size(); done < total; {
			n := min(total-done, stagingElements)
			out := l.staging[:n*to.Size()]
			in := data[done*from.Size() : (done+n)*from.Size()]
			if scales != nil {
				scales.dequantise(out, to, in, done)
			} else {
				convert(out, to, in, from)
			}
			if err := l.stream.CopyIn(m.Buffer, (m.Offset+int64(done))*int64(to.Size()), out); err != nil {
				return fmt.Errorf("tensor %q: copying to the device: %w", name, err)
			}
			done += n
		}
		return nil
	})
}

// convert turns little-endian elements of one type into another.
func convert(out []byte, to backend.DType, in []byte, from backend.DType) {
	if to == from {
		copy(out, in)
		return
	}
	widen := widenFunc(from)
	for i, n := 0, len(in)/from.Size(); i < n; i++ {
		v := widen(in[i*from.Size():])
		if to == backend.F32 {
			binary.LittleEndian.PutUint32(out[4*i:], math.Float32bits(v))
		} else {
			binary.LittleEndian.PutUint16(out[2*i:], backend.Float32ToBF16(v))
		}
	}
}

func widenFunc(from backend.DType) func([]byte) float32 {
	switch from {
	case backend.BF16:
		return func(b []byte) float32 { return backend.BF16ToFloat32(binary.LittleEndian.Uint16(b)) }
	case backend.F16:
		return func(b []byte) float32 { return backend.F16ToFloat32(binary.LittleEndian.Uint16(b)) }
	default:
		return func(b []byte) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(b)) }
	}
}
