// SPDX-License-Identifier: Apache-2.0

package weights

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/backend"
	_ "github.com/findep/findep-operator/runtime/backend/reference"
	"github.com/findep/findep-operator/runtime/model"
)

// file encodes a safetensors file from a header as JSON text and its data.
func file(header string, data []byte) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), data...)
}

func save(t testing.TB, dir, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTensorReturnsBytesTypeAndShape(t *testing.T) {
	for _, mapped := range []bool{true, false} {
		t.Run(fmt.Sprintf("mapped=%v", mapped), func(t *testing.T) {
			dir := t.TempDir()
			save(t, dir, SingleFile, file(
				`{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[1],"data_offsets":[6,10]},"a":{"dtype":"BF16","shape":[3,1],"data_offsets":[0,6]}}`,
				[]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}))
			c, err := open(dir, mapped)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			data, dtype, shape, err := c.Tensor("a")
			if err != nil || dtype != backend.BF16 || !bytes.Equal(data, []byte{1, 2, 3, 4, 5, 6}) || !cmp.Equal(shape, []int{3, 1}) {
				t.Errorf("a = %v %v %v, %v", data, dtype, shape, err)
			}
			if diff := cmp.Diff([]string{"a", "b"}, c.Names()); diff != "" {
				t.Errorf("names: %s", diff)
			}
		})
	}
}

func TestOpenNamesWhatIsWrong(t *testing.T) {
	tests := map[string]struct {
		content []byte
		want    []string
	}{
		"empty file":         {nil, []string{"0 bytes", "download"}},
		"html page":          {[]byte("<html><body>not found"), []string{"header claims"}},
		"header beyond file": {file(strings.Repeat(" ", 10), nil)[:12], []string{"claims 10 bytes", "has 4"}},
		"no object":          {file(`[1,2]`, nil), []string{"no JSON object"}},
		"cut json":           {file(`{"a":`, nil), []string{`tensor "a"`, "malformed"}},
		"unclosed object":    {file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}`, make([]byte, 4)), []string{"malformed"}},
		"unknown type":       {file(`{"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,4]}}`, make([]byte, 4)), []string{`tensor "a"`, `"Q4"`}},
		"twice":              {file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, make([]byte, 8)), []string{`"a" appears twice`}},
		"truncated":          {file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, make([]byte, 7)), []string{`tensor "a" is truncated`, "the file has 69", "end at byte 70"}},
		"shape and offsets":  {file(`{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}`, make([]byte, 8)), []string{`tensor "a"`, "needs 12 bytes", "give 8"}},
		"negative dimension": {file(`{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}`, make([]byte, 8)), []string{`tensor "a"`, "negative"}},
		"overflowing shape":  {file(`{"a":{"dtype":"F32","shape":[2147483647,2147483647,2147483647],"data_offsets":[0,8]}}`, make([]byte, 8)), []string{`tensor "a"`, "too large"}},
		"backward offsets":   {file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}`, make([]byte, 8)), []string{`tensor "a"`, "ascending"}},
		"overlap":            {file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}`, make([]byte, 12)), []string{`"b" overlaps tensor "a"`}},
		"hole":               {file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}`, make([]byte, 12)), []string{`"b"`, "belong to no tensor"}},
		"bytes left":         {file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, make([]byte, 6)), []string{"2 bytes after", "belong to no tensor"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			save(t, dir, SingleFile, tc.content)
			_, err := Open(dir)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range append(tc.want, filepath.Join(dir, SingleFile)) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not mention %q", err, want)
				}
			}
		})
	}
}

const oneTensor = `{%q:{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`

func TestShardedCheckpoint(t *testing.T) {
	shard := func(tensor string) []byte { return file(fmt.Sprintf(oneTensor, tensor), []byte(tensor+"___")) }
	tests := map[string]struct {
		index string
		files map[string][]byte
		want  string
	}{
		"two shards":        {`{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}`, map[string][]byte{"1.safetensors": shard("a"), "2.safetensors": shard("b")}, ""},
		"missing shard":     {`{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}`, map[string][]byte{"1.safetensors": shard("a")}, "2.safetensors"},
		"tensor elsewhere":  {`{"weight_map":{"a":"1.safetensors","b":"1.safetensors"}}`, map[string][]byte{"1.safetensors": shard("a")}, `tensor "b" is missing in`},
		"in two shards":     {`{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}`, map[string][]byte{"1.safetensors": shard("a"), "2.safetensors": shard("a")}, `tensor "a" is in both`},
		"outside":           {`{"weight_map":{"a":"../1.safetensors"}}`, nil, "without folder"},
		"dots":              {`{"weight_map":{"a":".."}}`, nil, "without folder"},
		"empty map":         {`{"weight_map":{}}`, nil, "names no tensors"},
		"index is not JSON": {`<html>`, nil, "malformed"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			save(t, dir, IndexFile, []byte(tc.index))
			for f, content := range tc.files {
				save(t, dir, f, content)
			}
			c, err := Open(dir)
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Fatalf("error %v does not mention %q", err, tc.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if data, _, _, err := c.Tensor("b"); err != nil || string(data) != "b___" {
				t.Errorf("b = %q, %v", data, err)
			}
		})
	}
}

func TestOpenOfAnEmptyFolderSaysWhatItLookedFor(t *testing.T) {
	_, err := Open(t.TempDir())
	if err == nil || !strings.Contains(err.Error(), SingleFile) || !strings.Contains(err.Error(), IndexFile) {
		t.Errorf("error %v", err)
	}
}

// tiny is a DeepSeek-V3 shape with every optional tensor.
func tiny(t testing.TB) *model.Shape {
	t.Helper()
	s, err := model.ByName("deepseek-ai/DeepSeek-V3")
	if err != nil {
		t.Fatal(err)
	}
	s.Quantization, s.DType = nil, model.Float32
	s.HiddenSize, s.Layers, s.DenseLayers, s.DenseIntermediateSize, s.VocabSize = 8, 3, 1, 12, 20
	s.Attention = model.Attention{Kind: model.MLA, Heads: 2, KVHeads: 2, QLoRARank: 6, KVLoRARank: 4, QKNopeHeadDim: 4, QKRopeHeadDim: 2, VHeadDim: 4}
	s.MoE = model.MoE{Experts: 5, ExpertsPerToken: 2, SharedExperts: 1, IntermediateSize: 6}
	s.Routing.Groups, s.Routing.TopKGroups = 1, 1
	return s
}

func openRandom(t testing.TB, s *model.Shape) *Checkpoint {
	t.Helper()
	dir := t.TempDir()
	if err := WriteRandom(filepath.Join(dir, SingleFile), s, 1); err != nil {
		t.Fatal(err)
	}
	c, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func device(t testing.TB) backend.Device {
	t.Helper()
	dev, err := backend.Open("reference", backend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

func floats(t *testing.T, c *Checkpoint, name string) []float32 {
	t.Helper()
	data, _, _, err := c.Tensor(name)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]float32, len(data)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return out
}

func TestRanksTogetherLoadEveryTensorOnce(t *testing.T) {
	s := tiny(t)
	c := openRandom(t, s)
	dev := device(t)
	a, err := LoadAttention(dev, c, s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Free()
	elements := func(buffers []backend.Buffer) (n int64) {
		for _, b := range buffers {
			n += b.Size() / 4
		}
		return n
	}
	total := elements(a.buffers)
	if want := s.Parameters().AttentionGroup; total != want {
		t.Errorf("attention rank holds %d elements, want %d", total, want)
	}
	for rank := range 2 {
		first, last := ExpertRange(s.MoE.Experts, 2, rank)
		e, err := LoadExperts(dev, c, s, first, last, Options{})
		if err != nil {
			t.Fatal(err)
		}
		total += elements(e.buffers)
		e.Free()
	}
	if want := s.Parameters().Total; total != want {
		t.Errorf("all ranks hold %d elements, want %d", total, want)
	}
}

func TestExpertsArePackedGateThenUp(t *testing.T) {
	s := tiny(t)
	c := openRandom(t, s)
	e, err := LoadExperts(device(t), c, s, 3, 5, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Free()
	var gateUp, down []float32
	for _, k := range []int{3, 4} {
		prefix := fmt.Sprintf("model.layers.2.mlp.experts.%d.", k)
		gateUp = append(append(gateUp, floats(t, c, prefix+"gate_proj.weight")...), floats(t, c, prefix+"up_proj.weight")...)
		down = append(down, floats(t, c, prefix+"down_proj.weight")...)
	}
	if diff := cmp.Diff(gateUp, backend.Float32s(e.Layers[1].GateUp)); diff != "" {
		t.Errorf("gate and up: %s", diff)
	}
	if diff := cmp.Diff(down, backend.Float32s(e.Layers[1].Down)); diff != "" {
		t.Errorf("down: %s", diff)
	}
}

func TestLoadingNamesTheTensor(t *testing.T) {
	s := tiny(t)
	c := openRandom(t, s)
	tests := map[string]struct {
		change func(*model.Shape)
		want   []string
	}{
		"wrong shape":  {func(s *model.Shape) { s.DenseIntermediateSize = 13 }, []string{`"model.layers.0.mlp.gate_proj.weight"`, SingleFile, "[12 8]", "[13 8]"}},
		"missing":      {func(s *model.Shape) { s.Layers = 4 }, []string{`"model.layers.3.input_layernorm.weight" is missing`}},
		"wrong vector": {func(s *model.Shape) { s.Attention.QLoRARank = 7 }, []string{"q_a_proj", "[7 8]"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			other := *s
			tc.change(&other)
			_, err := LoadAttention(device(t), c, &other, Options{})
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
	if _, err := LoadExperts(device(t), c, s, 4, 6, Options{}); err == nil || !strings.Contains(err.Error(), "[4, 6)") {
		t.Errorf("experts beyond the model: %v", err)
	}
}

// Values of 2 bytes come out as the same numbers, F32 as BF16 rounded to the
// nearest.
func TestConversions(t *testing.T) {
	tests := map[string]struct {
		from, to backend.DType
		in       []byte
		want     []byte
	}{
		"bf16 to f32": {backend.BF16, backend.F32, []byte{0xc0, 0x3f}, []byte{0, 0, 0xc0, 0x3f}},
		"f16 to f32":  {backend.F16, backend.F32, []byte{0, 0x3e}, []byte{0, 0, 0xc0, 0x3f}},
		"f32 to bf16": {backend.F32, backend.BF16, []byte{0, 0x80, 0xc1, 0x3f}, []byte{0xc2, 0x3f}},
		"f16 to bf16": {backend.F16, backend.BF16, []byte{0, 0x3e}, []byte{0xc0, 0x3f}},
		"same":        {backend.F32, backend.F32, []byte{1, 2, 3, 4}, []byte{1, 2, 3, 4}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			out := make([]byte, len(tc.want))
			convert(out, tc.to, tc.in, tc.from)
			if diff := cmp.Diff(tc.want, out); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestExpertRangePartitionsTheExperts(t *testing.T) {
	for experts := range 40 {
		for eg := 1; eg <= 12; eg++ {
			at := 0
			for e := range eg {
				first, last := ExpertRange(experts, eg, e)
				if first != at || last < first || last-first > (experts+eg-1)/eg || last-first < experts/eg {
					t.Fatalf("%d experts over %d ranks: rank %d holds [%d, %d), after %d", experts, eg, e, first, last, at)
				}
				at = last
			}
			if at != experts {
				t.Fatalf("%d experts over %d ranks end at %d", experts, eg, at)
			}
		}
	}
}

func TestFileThatShrinksWhileMappedIsAnError(t *testing.T) {
	s := tiny(t)
	s.VocabSize = 4096
	dir := t.TempDir()
	path := filepath.Join(dir, SingleFile)
	if err := WriteRandom(path, s, 1); err != nil {
		t.Fatal(err)
	}
	c, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAttention(device(t), c, s, Options{}); err == nil || !strings.Contains(err.Error(), "truncated") {
		t.Errorf("error %v", err)
	}
}

// Whatever the header says, tensors that are accepted lie within the file,
// tile it and have the bytes of their shape.
func FuzzParseHeader(f *testing.F) {
	f.Add(file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]}}`, make([]byte, 12)))
	f.Add(file(`{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"__metadata__":{"x":"y"}}`, make([]byte, 4)))
	f.Add(file(`{"a":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,9223372036854775807]}}`, nil))
	f.Add([]byte{255, 255, 255, 255, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, content []byte) {
		infos, err := ParseHeader(bytes.NewReader(content), int64(len(content)))
		if err != nil {
			return
		}
		at := int64(-1)
		for _, info := range infos {
			n := elementBits[info.DType] / 8
			for _, d := range info.Shape {
				n *= int64(d)
			}
			if info.End-info.Begin != n || (at >= 0 && info.Begin != at) || info.End > int64(len(content)) {
				t.Errorf("accepted %+v after byte %d of %d", info, at, len(content))
			}
			at = info.End
		}
		if at >= 0 && at != int64(len(content)) {
			t.Errorf("tensors end at %d of %d", at, len(content))
		}
	})
}

func TestSpecsAreWhatIsCounted(t *testing.T) {
	for _, name := range model.Names() {
		s, err := model.ByName(name)
		if err != nil {
			t.Fatal(err)
		}
		n := int64(0)
		for _, spec := range Specs(s) {
			n += spec.elements()
		}
		if want := s.Parameters().Total; n != want {
			t.Errorf("%s: specs have %d elements, the model %d", name, n, want)
		}
	}
}
