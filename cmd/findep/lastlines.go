// SPDX-License-Identifier: Apache-2.0

package main

import "sync"

// keepBytes is how much of the ranks' logs is kept to explain a failure.
const keepBytes = 4 << 10

// lastLines keeps the end of what is written to it. Several processes write at
// once.
type lastLines struct {
	mu  sync.Mutex
	end []byte
}

// Write implements io.Writer.
func (l *lastLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = append(l.end, p...)
	if over := len(l.end) - keepBytes; over > 0 {
		l.end = append(l.end[:0], l.end[over:]...)
	}
	return len(p), nil
}

// String implements fmt.Stringer.
func (l *lastLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.end)
}
