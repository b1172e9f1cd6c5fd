// SPDX-License-Identifier: Apache-2.0

// Package recorder proves the order in which the native pipeline enqueues task
// lists, on machines without a GPU. A program built from the pipeline's own
// sources and a recording device (kernels/tests/recorder) says what it would
// enqueue on which stream; Check examines the records of all ranks together.
// Only tests use it.
//
// # What Check proves
//
// Let G be the graph of a list's dependencies and of each stream's order.
//
//   - Dependencies: what the recorded waits and streams order is exactly what G
//     orders, neither less (a missing wait) nor more.
//   - Waits: each wait between streams is needed: without it the order would
//     be less. So they are the transitive reduction of G.
//   - Deadlock: all streams of all ranks run to their end when a group of
//     transfers starts at the head of its stream and ends when every peer's
//     group that has the other half of one of its parts has started too. This
//     is the strictest reading of a group: nothing is buffered. Since no choice
//     is left open, running to the end once means that it always does. The
//     same holds for the hosts, should each call that enqueues a group wait for
//     those of its peers.
//   - Memory: any two accesses of a rank to the same bytes, one of them a
//     write, are ordered, be it by way of other ranks. So a slot is written
//     again only after its last reader.
package recorder

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// Variable names the environment variable with the path of the program.
const Variable = "FINDEP_RECORDER"

// Program is the running recorder.
type Program struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  io.Reader
	head [8]byte
}

// ErrNotBuilt tells that there is no recorder on this machine.
var ErrNotBuilt = errors.New("the recorder is not built: run `make native-recorder`")

// Start starts the program that Variable names, or the one in build/native below
// one of the folders above the current one.
func Start() (*Program, error) {
	path := os.Getenv(Variable)
	if path == "" {
		path = built()
	}
	if path == "" {
		return nil, ErrNotBuilt
	}
	p := &Program{cmd: exec.Command(path)}
	p.cmd.Stderr = os.Stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	return p, p.cmd.Start()
}

func built() string {
	dir, err := os.Getwd()
	for err == nil {
		path := filepath.Join(dir, "build", "native", "recorder")
		if _, err := os.Stat(path); err == nil {
			return path
		}
		if dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	return ""
}

// Refused is the pipeline's refusal of a list.
type Refused struct {
	// Status is a findep_status.
	Status uint32
	Text   string
}

func (r *Refused) Error() string { return fmt.Sprintf("status %d: %s", r.Status, r.Text) }

// Record returns what the pipeline enqueues for a list.
func (p *Program) Record(list []byte) (string, error) {
	le := binary.LittleEndian
	request := append(le.AppendUint32(nil, uint32(len(list))), list...)
	if _, err := p.in.Write(request); err != nil {
		return "", fmt.Errorf("the recorder has ended: %w", err)
	}
	if _, err := io.ReadFull(p.out, p.head[:]); err != nil {
		return "", fmt.Errorf("the recorder has ended: %w", err)
	}
	text := make([]byte, le.Uint32(p.head[4:]))
	if _, err := io.ReadFull(p.out, text); err != nil {
		return "", err
	}
	if status := le.Uint32(p.head[:]); status != 0 {
		return "", &Refused{status, string(text)}
	}
	return string(text), nil
}

// Close ends the program; it fails if that had an error of its own, such as one
// that a sanitizer found.
func (p *Program) Close() error {
	return errors.Join(p.in.Close(), p.cmd.Wait())
}
