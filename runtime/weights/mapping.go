// SPDX-License-Identifier: Apache-2.0

package weights

import (
	"fmt"
	"io"
	"math"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// source is an open checkpoint file. data is its mapping, or nil where the
// file system cannot map, in which case it is read.
type source struct {
	path string
	size int64
	file *os.File
	data []byte
}

func openSource(path string, mapped bool) (*source, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	stat, err := file.Stat()
	if err != nil {
		return nil, closeAfter(file, err)
	}
	if !stat.Mode().IsRegular() {
		return nil, closeAfter(file, fmt.Errorf("%s is no regular file", path))
	}
	s := &source{path: path, size: stat.Size(), file: file}
	if mapped && s.size > 0 && s.size <= math.MaxInt {
		if data, err := unix.Mmap(int(file.Fd()), 0, int(s.size), unix.PROT_READ, unix.MAP_SHARED); err == nil {
			s.data = data
		}
	}
	return s, nil
}

func closeAfter(c io.Closer, err error) error {
	_ = c.Close() // The first error is the one worth reporting.
	return err
}

// bytes returns the file's bytes [begin, end), which the header has shown to
// lie within it. The result must not be written to.
func (s *source) bytes(begin, end int64) ([]byte, error) {
	if s.data != nil {
		return s.data[begin:end:end], nil
	}
	b := make([]byte, end-begin)
	if _, err := s.file.ReadAt(b, begin); err != nil {
		return nil, fmt.Errorf("reading bytes %d to %d of %s: %w", begin, end, s.path, err)
	}
	return b, nil
}

func (s *source) close() error {
	if s.data != nil {
		if err := unix.Munmap(s.data); err != nil {
			return closeAfter(s.file, fmt.Errorf("unmapping %s: %w", s.path, err))
		}
		s.data = nil
	}
	return s.file.Close()
}

// guarded runs f and turns a fault on a mapped page into an error: a file that
// shrinks after it was mapped, or a disk that fails, must not end the process.
func guarded(what string, f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if _, fault := r.(interface{ Addr() uintptr }); !fault {
				panic(r)
			}
			err = fmt.Errorf("%s: the file became unreadable while mapped (%v); was it changed or truncated?", what, r)
		}
	}()
	return f()
}
