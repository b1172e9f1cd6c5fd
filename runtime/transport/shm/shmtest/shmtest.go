// SPDX-License-Identifier: Apache-2.0

// Package shmtest helps tests whose ranks meet to share memory.
package shmtest

import (
	"os"
	"testing"
)

// Directory is one for sockets, which exists until the test ends. Unlike that of
// testing.T its path does not hold the test's name, because the path of a socket
// may have 107 bytes only.
func Directory(tb testing.TB) string {
	tb.Helper()
	directory, err := os.MkdirTemp("", "shm")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(directory); err != nil {
			tb.Error(err)
		}
	})
	return directory
}
