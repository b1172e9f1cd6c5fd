// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"sync"
)

// keepBytes is how much of the ranks' logs is kept to explain a failure.
const keepBytes = 4 << 10

// lastLines keeps the end of what is written to it, and shows all of it if it is
// told where. Several processes write at once.
type lastLines struct {
	mu   sync.Mutex
	end  []byte
	show io.Writer // may be nil
}

// Write implements io.Writer.
func (l *lastLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = append(l.end, p...)
	if over := len(l.end) - keepBytes; over > 0 {
		l.end = append(l.end[:0], l.end[over:]...)
	}
	if l.show != nil {
		return l.show.Write(p)
	}
	return len(p), nil
}

// String implements fmt.Stringer.
func (l *lastLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.end)
}
