// SPDX-License-Identifier: Apache-2.0

// Package weights reads checkpoints in the safetensors format
// (https://github.com/huggingface/safetensors) and puts each rank's share of
// them into device memory. Files are mapped, so a rank touches only the pages
// of its own tensors.
//
// A checkpoint is not trusted: headers are bounded and validated before use,
// and whatever is wrong with a tensor is reported with its name, its file, and
// what was expected and found.
package weights

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

// Limits on what a file can make a reader do.
const (
	// MaxHeaderBytes is the format's own limit on the JSON header.
	MaxHeaderBytes = 100_000_000
	// MaxTensors bounds the tensors of one file.
	MaxTensors = 1 << 20
	// MaxDimensions bounds the rank of a tensor.
	MaxDimensions = 8
)

// headerPrefix is the length field ahead of the header.
const headerPrefix = 8

// Info describes one tensor of a file.
type Info struct {
	Name string
	// DType is the format's name for the element type, such as "BF16".
	DType string
	Shape []int
	// Begin and End are byte offsets in the file.
	Begin, End int64
}

// ParseHeader reads the header of a safetensors file of the given size and
// returns its tensors in the order of their data. Every tensor lies within the
// file, has the bytes its shape needs and overlaps no other; like the format's
// own library it refuses data that no tensor owns.
func ParseHeader(r io.ReaderAt, size int64) ([]Info, error) {
	var prefix [headerPrefix]byte
	if size < headerPrefix {
		return nil, fmt.Errorf("the file has %d bytes, less than the %d of a header's length; is the download complete?", size, headerPrefix)
	}
	if _, err := r.ReadAt(prefix[:], 0); err != nil {
		return nil, fmt.Errorf("reading the header's length: %w", err)
	}
	length := binary.LittleEndian.Uint64(prefix[:])
	if length > MaxHeaderBytes {
		return nil, fmt.Errorf("the header claims %d bytes, more than the limit of %d; is this a safetensors file?", length, MaxHeaderBytes)
	}
	if int64(length) > size-headerPrefix {
		return nil, fmt.Errorf("the header claims %d bytes, but the file has %d after the length; is the download complete?", length, size-headerPrefix)
	}
	raw := make([]byte, length)
	if _, err := r.ReadAt(raw, headerPrefix); err != nil {
		return nil, fmt.Errorf("reading the header: %w", err)
	}
	infos, err := parseTensors(raw)
	if err != nil {
		return nil, err
	}
	return infos, place(infos, headerPrefix+int64(length), size)
}

// parseTensors walks the header token by token, because a JSON map would hide
// a name that appears twice.
func parseTensors(raw []byte) ([]Info, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if token, err := dec.Token(); err != nil || token != json.Delim('{') {
		return nil, errors.New("the header is no JSON object; is this a safetensors file?")
	}
	var infos []Info
	seen := map[string]bool{}
	for dec.More() {
		token, err := dec.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return nil, fmt.Errorf("the header is malformed after %d tensors: %w", len(infos), err)
		}
		if name == "__metadata__" {
			var ignored json.RawMessage
			if err := dec.Decode(&ignored); err != nil {
				return nil, fmt.Errorf("the header's metadata are malformed: %w", err)
			}
			continue
		}
		if seen[name] {
			return nil, fmt.Errorf("tensor %q appears twice in the header", name)
		}
		seen[name] = true
		if len(infos) == MaxTensors {
			return nil, fmt.Errorf("the header names more than %d tensors", MaxTensors)
		}
		info, err := parseInfo(dec, name)
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("the header's end is malformed: %w", err)
	}
	return infos, nil
}

func parseInfo(dec *json.Decoder, name string) (Info, error) {
	var entry struct {
		DType   string  `json:"dtype"`
		Shape   []int64 `json:"shape"`
		Offsets []int64 `json:"data_offsets"`
	}
	if err := dec.Decode(&entry); err != nil {
		return Info{}, fmt.Errorf("tensor %q: the header entry is malformed: %w", name, err)
	}
	if len(entry.Offsets) != 2 || entry.Offsets[0] < 0 || entry.Offsets[1] < entry.Offsets[0] {
		return Info{}, fmt.Errorf("tensor %q: data_offsets are %v; two ascending offsets are needed", name, entry.Offsets)
	}
	bits, ok := elementBits[entry.DType]
	if !ok {
		return Info{}, fmt.Errorf("tensor %q: unknown element type %q", name, entry.DType)
	}
	bytes, err := tensorBytes(entry.Shape, bits)
	if err != nil {
		return Info{}, fmt.Errorf("tensor %q: %w", name, err)
	}
	if has := entry.Offsets[1] - entry.Offsets[0]; has != bytes {
		return Info{}, fmt.Errorf("tensor %q: %s %v needs %d bytes, data_offsets give %d", name, entry.DType, entry.Shape, bytes, has)
	}
	info := Info{Name: name, DType: entry.DType, Shape: make([]int, len(entry.Shape)), Begin: entry.Offsets[0], End: entry.Offsets[1]}
	for i, d := range entry.Shape {
		info.Shape[i] = int(d)
	}
	return info, nil
}

// elementBits lists the element types of the format. Types that this package
// cannot load are accepted here, because a file may hold such tensors beside
// those that are needed.
var elementBits = map[string]int64{
	"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
	"I16": 16, "U16": 16, "F16": 16, "BF16": 16,
	"I32": 32, "U32": 32, "F32": 32,
	"I64": 64, "U64": 64, "F64": 64, "C64": 64,
}

func tensorBytes(shape []int64, bits int64) (int64, error) {
	if len(shape) > MaxDimensions {
		return 0, fmt.Errorf("%d dimensions, more than the limit of %d", len(shape), MaxDimensions)
	}
	const limit = math.MaxInt64 / 64
	n := int64(1)
	for _, d := range shape {
		if d < 0 || d > math.MaxInt32 || d > 0 && n > limit/d {
			return 0, fmt.Errorf("shape %v is negative or too large", shape)
		}
		n *= d
	}
	return n * bits / 8, nil
}

// place turns offsets within the data into offsets within the file, and checks
// that the tensors tile the data.
func place(infos []Info, base, size int64) error {
	slices.SortStableFunc(infos, func(a, b Info) int {
		return cmp.Or(cmp.Compare(a.Begin, b.Begin), cmp.Compare(a.End, b.End))
	})
	at, before := int64(0), "the header"
	for i := range infos {
		t := &infos[i]
		switch {
		case t.End > size-base:
			return fmt.Errorf("tensor %q is truncated: its data end at byte %d, the file has %d; is the download complete?",
				t.Name, base+min(t.End, math.MaxInt64-base), size)
		case t.Begin < at:
			return fmt.Errorf("tensor %q overlaps tensor %q: it begins at data byte %d, before byte %d", t.Name, before, t.Begin, at)
		case t.Begin > at:
			return fmt.Errorf("tensor %q begins at data byte %d, but byte %d follows %q: bytes between belong to no tensor", t.Name, t.Begin, at, before)
		}
		at, before = t.End, t.Name
		t.Begin, t.End = t.Begin+base, t.End+base
	}
	if at != size-base {
		return fmt.Errorf("%d bytes after %q belong to no tensor", size-base-at, before)
	}
	return nil
}
