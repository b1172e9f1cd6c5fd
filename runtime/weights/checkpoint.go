// SPDX-License-Identifier: Apache-2.0

package weights

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/findep/findep-operator/runtime/backend"
)

// Names of a checkpoint's files, as transformers writes them.
const (
	SingleFile = "model.safetensors"
	IndexFile  = "model.safetensors.index.json"
)

// maxIndexBytes bounds the index of a sharded checkpoint; DeepSeek-V3's, with
// 91,991 tensors, has 9 MB.
const maxIndexBytes = 256 << 20

// Checkpoint is an open checkpoint folder. It is safe for concurrent use until
// it is closed.
type Checkpoint struct {
	dir     string
	sources []*source
	tensors map[string]entry
}

type entry struct {
	source *source
	info   Info
}

// Open opens the checkpoint in dir: model.safetensors, or the shards that
// model.safetensors.index.json names.
func Open(dir string) (*Checkpoint, error) { return open(dir, true) }

func open(dir string, mapped bool) (*Checkpoint, error) {
	c := &Checkpoint{dir: dir, tensors: map[string]entry{}}
	index, err := readIndex(filepath.Join(dir, IndexFile))
	if errors.Is(err, os.ErrNotExist) {
		err = c.add(SingleFile, mapped)
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("checkpoint %s has neither %s nor %s", dir, SingleFile, IndexFile)
		}
	} else if err == nil {
		err = c.addShards(index, mapped)
	}
	if err != nil {
		return nil, closeAfter(c, err)
	}
	return c, nil
}

// readIndex returns the weight map of a sharded checkpoint: tensor name to
// file name.
func readIndex(path string) (map[string]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxIndexBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(raw) > maxIndexBytes {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxIndexBytes)
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("%s is malformed: %w", path, err)
	}
	if len(index.WeightMap) == 0 {
		return nil, fmt.Errorf("%s names no tensors in weight_map", path)
	}
	for tensor, name := range index.WeightMap {
		// A name with a folder could reach out of the checkpoint.
		if name == "" || name != filepath.Base(name) || name == "." || name == ".." {
			return nil, fmt.Errorf("%s: tensor %q lies in %q; a file name without folder is needed", path, tensor, name)
		}
	}
	return index.WeightMap, nil
}

func (c *Checkpoint) addShards(index map[string]string, mapped bool) error {
	shards := map[string]bool{}
	for _, name := range index {
		shards[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(shards)) {
		if err := c.add(name, mapped); err != nil {
			return err
		}
	}
	for _, tensor := range slices.Sorted(maps.Keys(index)) {
		e, ok := c.tensors[tensor]
		if !ok || filepath.Base(e.source.path) != index[tensor] {
			return fmt.Errorf("tensor %q is missing in %s, where %s says it lies", tensor, filepath.Join(c.dir, index[tensor]), IndexFile)
		}
	}
	return nil
}

func (c *Checkpoint) add(name string, mapped bool) error {
	path := filepath.Join(c.dir, name)
	s, err := openSource(path, mapped)
	if err != nil {
		return fmt.Errorf("opening checkpoint file: %w", err)
	}
	c.sources = append(c.sources, s)
	infos, err := ParseHeader(s.file, s.size)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, info := range infos {
		if other, ok := c.tensors[info.Name]; ok {
			return fmt.Errorf("tensor %q is in both %s and %s", info.Name, other.source.path, path)
		}
		c.tensors[info.Name] = entry{s, info}
	}
	return nil
}

// Close unmaps the files. Slices that Tensor returned must not be used after.
func (c *Checkpoint) Close() error {
	var errs []error
	for _, s := range c.sources {
		errs = append(errs, s.close())
	}
	c.sources, c.tensors = nil, nil
	return errors.Join(errs...)
}

// Names lists the tensors in alphabetical order.
func (c *Checkpoint) Names() []string { return slices.Sorted(maps.Keys(c.tensors)) }

// Tensor returns the little-endian elements of a tensor, row after row, with
// their type and shape. The bytes are read-only and live until Close. FP8
// elements are returned as stored, without their scales.
func (c *Checkpoint) Tensor(name string) ([]byte, backend.DType, []int, error) {
	e, ok := c.tensors[name]
	if !ok {
		return nil, 0, nil, fmt.Errorf("tensor %q is missing in checkpoint %s", name, c.dir)
	}
	dtype, ok := loadable[e.info.DType]
	if !ok {
		return nil, 0, nil, fmt.Errorf("tensor %q in %s has elements of type %s; BF16, F16, F32 and F8_E4M3 can be loaded", name, e.source.path, e.info.DType)
	}
	data, err := e.source.bytes(e.info.Begin, e.info.End)
	if err != nil {
		return nil, 0, nil, fmt.Errorf("tensor %q: %w", name, err)
	}
	return data, dtype, slices.Clone(e.info.Shape), nil
}

var loadable = map[string]backend.DType{"F32": backend.F32, "F16": backend.F16, "BF16": backend.BF16, "F8_E4M3": backend.F8E4M3}

// shaped is Tensor for a tensor that must have the given shape.
func (c *Checkpoint) shaped(name string, want ...int) ([]byte, backend.DType, error) {
	data, dtype, shape, err := c.Tensor(name)
	if err != nil {
		return nil, 0, err
	}
	if !slices.Equal(shape, want) {
		return nil, 0, fmt.Errorf("tensor %q in %s has shape %v; config.json asks for %v", name, c.tensors[name].source.path, shape, want)
	}
	return data, dtype, nil
}
