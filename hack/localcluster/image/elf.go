// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Library is a shared library or dynamic loader and where it must lie in an
// image for the loader to find it.
type Library struct {
	// Source is the file on this machine, links followed.
	Source string
	// Destination is the absolute path in the image.
	Destination string
}

// Resolver finds the shared libraries of ELF files as the dynamic loader would
// (ld.so(8)), but without running anything.
type Resolver struct {
	// Dirs are the folders to search, in order, after the file's own RPATH and
	// RUNPATH.
	Dirs []string
}

// SystemResolver searches the folders of /etc/ld.so.conf and the loader's
// built-in ones.
func SystemResolver() Resolver {
	dirs := configuredDirs("/etc/ld.so.conf", 0)
	return Resolver{Dirs: append(dirs, "/lib64", "/usr/lib64", "/lib", "/usr/lib")}
}

// maxIncludeDepth bounds nested includes of ld.so.conf, which may form a cycle.
const maxIncludeDepth = 8

// configuredDirs reads a file in the format of ldconfig(8): one folder per line,
// and include lines with a pattern.
func configuredDirs(file string, depth int) []string {
	f, err := os.Open(file)
	if err != nil || depth > maxIncludeDepth {
		return nil
	}
	defer f.Close()
	var dirs []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
		case fields[0] == "include":
			for _, pattern := range fields[1:] {
				if !filepath.IsAbs(pattern) {
					pattern = filepath.Join(filepath.Dir(file), pattern)
				}
				matches, _ := filepath.Glob(pattern)
				for _, m := range matches {
					dirs = append(dirs, configuredDirs(m, depth+1)...)
				}
			}
		default:
			dirs = append(dirs, fields[0])
		}
	}
	return dirs
}

// found is a library in the order of discovery.
type found struct {
	soname string
	path   string
}

// Resolve returns every library that the programs need, directly or through
// another library, and the dynamic loaders that the programs name. Libraries
// come to lie side by side in the folder of the C library, which the loader
// always searches, so that the image needs no loader cache. Statically linked
// programs need nothing. An error names the library that is missing and who
// needs it.
func (r Resolver) Resolve(programs ...string) ([]Library, error) {
	var libraries []found
	loaders := map[string]bool{}
	seen := map[string]bool{}
	queue := slices.Clone(programs)
	for len(queue) > 0 {
		current := queue[0]
		queue = queue[1:]
		info, err := readELF(current)
		if err != nil {
			return nil, err
		}
		if info.interpreter != "" {
			loaders[info.interpreter] = true
		}
		for _, soname := range info.needed {
			if seen[soname] {
				continue
			}
			seen[soname] = true
			p, err := r.find(soname, current, info)
			if err != nil {
				return nil, err
			}
			libraries = append(libraries, found{soname, p})
			queue = append(queue, p)
		}
	}
	return place(libraries, loaders)
}

// place decides the paths in the image.
func place(libraries []found, loaders map[string]bool) ([]Library, error) {
	dir := "/usr/lib"
	for _, l := range libraries {
		if strings.HasPrefix(l.soname, "libc.so") {
			dir = filepath.Dir(l.path)
		}
	}
	var out []Library
	add := func(source, destination string) error {
		real, err := filepath.EvalSymlinks(source)
		if err != nil {
			return fmt.Errorf("read the shared library %s: %w", source, err)
		}
		out = append(out, Library{Source: real, Destination: destination})
		return nil
	}
	for _, l := range libraries {
		destination := filepath.Join(dir, l.soname)
		if strings.Contains(l.soname, "/") {
			// The loader takes such a name as a path and searches nowhere.
			destination = l.soname
		}
		if err := add(l.path, destination); err != nil {
			return nil, err
		}
	}
	for loader := range loaders {
		if err := add(loader, loader); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b Library) int { return strings.Compare(a.Destination, b.Destination) })
	return out, nil
}

// elfInfo is what the loader reads of one file.
type elfInfo struct {
	machine     elf.Machine
	class       elf.Class
	interpreter string
	needed      []string
	runpath     []string
}

func readELF(file string) (elfInfo, error) {
	f, err := elf.Open(file)
	if err != nil {
		return elfInfo{}, fmt.Errorf("read %s as an ELF file: %w", file, err)
	}
	defer f.Close()
	info := elfInfo{machine: f.Machine, class: f.Class}
	for _, p := range f.Progs {
		// PATH_MAX bounds what a file may make us read.
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		data := make([]byte, p.Filesz)
		if _, err := p.ReadAt(data, 0); err != nil {
			return elfInfo{}, fmt.Errorf("read the loader's name in %s: %w", file, err)
		}
		info.interpreter = strings.TrimRight(string(data), "\x00")
	}
	if info.needed, err = f.ImportedLibraries(); err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return elfInfo{}, fmt.Errorf("read the libraries that %s needs: %w", file, err)
	}
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		// A static file has no dynamic section, which is no error here.
		values, _ := f.DynString(tag)
		for _, v := range values {
			info.runpath = append(info.runpath, strings.Split(v, ":")...)
		}
	}
	return info, nil
}

// find returns the first file with the soname that fits the needing file's
// machine, so that a 32-bit library in an earlier folder is passed over.
func (r Resolver) find(soname, needer string, info elfInfo) (string, error) {
	if strings.Contains(soname, "/") {
		return soname, nil
	}
	origin := filepath.Dir(needer)
	var dirs []string
	for _, d := range info.runpath {
		d = strings.NewReplacer("$ORIGIN", origin, "${ORIGIN}", origin).Replace(d)
		if d != "" {
			dirs = append(dirs, d)
		}
	}
	dirs = append(dirs, r.Dirs...)
	for _, d := range dirs {
		candidate := filepath.Join(d, soname)
		other, err := readELF(candidate)
		if err == nil && other.machine == info.machine && other.class == info.class {
			return candidate, nil
		}
	}
	return "", fmt.Errorf("shared library %s, which %s needs, is in none of %s: %w",
		soname, needer, strings.Join(dirs, ", "), fs.ErrNotExist)
}

func isELF(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	magic := make([]byte, len(elf.ELFMAG))
	n, err := f.Read(magic)
	return err == nil && n == len(magic) && string(magic) == elf.ELFMAG
}
