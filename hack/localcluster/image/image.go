// SPDX-License-Identifier: Apache-2.0

// Package image writes container images from local files, without a container
// engine and without a registry: one layer, in the docker-archive form that
// containerd imports. The same input gives a byte-identical archive.
package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// File is a local file or folder and where it goes in the image.
type File struct {
	// Source is a path on this machine. A folder is added with all below it.
	Source string
	// Destination is an absolute path in the image. For a folder it may be /,
	// which makes the folder's contents the image's.
	Destination string
}

// ParseFile reads SRC=/DST. Without =/DST the destination is / and the base name
// of SRC.
func ParseFile(s string) (File, error) {
	source, destination, found := strings.Cut(s, "=")
	if !found {
		destination = "/" + filepath.Base(source)
	}
	f := File{Source: source, Destination: destination}
	return f, f.validate()
}

func (f File) validate() error {
	if f.Source == "" {
		return fmt.Errorf("%q=%q names no source: write SRC=/DST", f.Source, f.Destination)
	}
	if !path.IsAbs(f.Destination) {
		return fmt.Errorf("destination %q of %s must be an absolute path", f.Destination, f.Source)
	}
	return nil
}

// Spec describes an image.
type Spec struct {
	// Name is the reference under which pods name the image, with a tag, as in
	// localhost/findep/manager:dev.
	Name string
	// Files are the image's contents. Later entries win over earlier ones.
	Files []File
	// Entrypoint is the command; empty for an image that only carries data.
	Entrypoint []string
	// User is the numeric user, or user:group, that runs the command.
	User string
	// Env are NAME=VALUE settings of the command.
	Env []string
	// Libraries adds what the dynamically linked ELF files among Files need
	// from this machine: their shared libraries and the dynamic loader.
	Libraries bool
}

// Write writes the image as a docker-archive to the file at path, which it
// replaces. The layer is not compressed, because it never leaves the machine.
func Write(spec Spec, path string) (err error) {
	tag, err := name.NewTag(spec.Name, name.StrictValidation)
	if err != nil {
		return fmt.Errorf("image name %q: %w; use a name with a tag, such as localhost/findep/manager:dev", spec.Name, err)
	}
	layerFile, err := os.CreateTemp(filepath.Dir(path), ".layer-*.tar")
	if err != nil {
		return err
	}
	defer os.Remove(layerFile.Name())
	defer layerFile.Close()
	if err := writeLayer(layerFile, spec); err != nil {
		return fmt.Errorf("image %s: %w", spec.Name, err)
	}
	img, err := build(spec, layerFile.Name())
	if err != nil {
		return fmt.Errorf("image %s: %w", spec.Name, err)
	}
	temporary := path + ".part"
	defer os.Remove(temporary)
	if err := tarball.WriteToFile(temporary, tag, img); err != nil {
		return fmt.Errorf("image %s: %w", spec.Name, err)
	}
	return os.Rename(temporary, path)
}

func build(spec Spec, layerPath string) (v1.Image, error) {
	layer, err := newLayer(layerPath)
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS = "linux"
	config.Architecture = runtime.GOARCH
	config.Config.Entrypoint = spec.Entrypoint
	config.Config.User = spec.User
	config.Config.Env = append([]string{"PATH=/usr/local/bin:/usr/bin:/bin:/"}, spec.Env...)
	config.Config.WorkingDir = "/"
	return mutate.ConfigFile(img, config)
}

// layer is an uncompressed tar file as an image layer. The layers of the tarball
// package are always compressed.
type layer struct {
	path string
	hash v1.Hash
	size int64
}

func newLayer(path string) (v1.Layer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	hash, size, err := v1.SHA256(f)
	if err != nil {
		return nil, err
	}
	return &layer{path: path, hash: hash, size: size}, nil
}

func (l *layer) Digest() (v1.Hash, error)             { return l.hash, nil }
func (l *layer) DiffID() (v1.Hash, error)             { return l.hash, nil }
func (l *layer) Compressed() (io.ReadCloser, error)   { return os.Open(l.path) }
func (l *layer) Uncompressed() (io.ReadCloser, error) { return os.Open(l.path) }
func (l *layer) Size() (int64, error)                 { return l.size, nil }
func (l *layer) MediaType() (types.MediaType, error)  { return types.DockerUncompressedLayer, nil }

var errNoFiles = errors.New("it has no files: name at least one binary or file to add")
