// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"
)

// entry is one regular file or folder of the layer.
type entry struct {
	source string // empty for a folder
	mode   int64
}

// writeLayer writes the layer's tar. Everything belongs to root and is readable
// by every user, since images run as a user that owns nothing.
func writeLayer(w io.Writer, spec Spec) error {
	entries, err := collect(spec)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		if err := writeEntry(tw, name, entries[name]); err != nil {
			return err
		}
	}
	return tw.Close()
}

// collect maps each path of the image to what goes there.
func collect(spec Spec) (map[string]entry, error) {
	if len(spec.Files) == 0 {
		return nil, errNoFiles
	}
	entries := map[string]entry{}
	for _, f := range spec.Files {
		if err := f.validate(); err != nil {
			return nil, err
		}
		if err := addTree(entries, f); err != nil {
			return nil, err
		}
	}
	if spec.Libraries {
		if err := addLibraries(entries); err != nil {
			return nil, err
		}
	}
	if len(spec.Entrypoint) > 0 {
		entries["/tmp"] = entry{mode: 0o1777}
	}
	return entries, addParents(entries)
}

func addTree(entries map[string]entry, f File) error {
	// A link given by name is meant as its target; WalkDir would not enter it.
	source, err := filepath.EvalSymlinks(f.Source)
	if err != nil {
		return fmt.Errorf("add %s: %w", f.Source, err)
	}
	return filepath.WalkDir(source, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("add %s: %w", f.Source, err)
		}
		relative, err := filepath.Rel(source, p)
		if err != nil {
			return err
		}
		info, err := os.Stat(p)
		if err != nil {
			return fmt.Errorf("add %s: %w", f.Source, err)
		}
		name := path.Join(f.Destination, filepath.ToSlash(relative))
		switch {
		case name == "/" && info.IsDir():
		case name == "/":
			return fmt.Errorf("add %s: a file cannot be /; name its place in the image", p)
		case info.IsDir():
			entries[name] = entry{mode: 0o755}
		case info.Mode().IsRegular():
			entries[name] = entry{source: p, mode: 0o444 | int64(info.Mode().Perm()&0o111)}
		default:
			return fmt.Errorf("add %s: it is neither a file nor a folder (%s)", p, info.Mode())
		}
		return nil
	})
}

// addLibraries resolves all ELF files collected so far.
func addLibraries(entries map[string]entry) error {
	var programs []string
	for _, e := range entries {
		if e.source != "" && isELF(e.source) {
			programs = append(programs, e.source)
		}
	}
	slices.Sort(programs)
	libraries, err := SystemResolver().Resolve(programs...)
	if err != nil {
		return err
	}
	for _, l := range libraries {
		entries[l.Destination] = entry{source: l.Source, mode: 0o555}
	}
	return nil
}

// addParents adds the folders above every entry, and refuses a file in the place
// of a folder, which containerd would report only when a pod starts.
func addParents(entries map[string]entry) error {
	for _, name := range slices.Collect(maps.Keys(entries)) {
		for parent := path.Dir(name); parent != "/"; parent = path.Dir(parent) {
			if e, ok := entries[parent]; !ok {
				entries[parent] = entry{mode: 0o755}
			} else if e.source != "" {
				return fmt.Errorf("%s is a file (%s) and also the folder of %s", parent, e.source, name)
			}
		}
	}
	return nil
}

func writeEntry(tw *tar.Writer, name string, e entry) error {
	header := &tar.Header{Name: name[1:], Mode: e.mode, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	if e.source == "" {
		header.Typeflag, header.Name = tar.TypeDir, header.Name+"/"
		return tw.WriteHeader(header)
	}
	f, err := os.Open(e.source)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	header.Typeflag, header.Size = tar.TypeReg, info.Size()
	if err := tw.WriteHeader(header); err != nil {
		return err
	}
	if _, err := io.Copy(tw, f); err != nil {
		return fmt.Errorf("add %s: %w", e.source, err)
	}
	return nil
}
