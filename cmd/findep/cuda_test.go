// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/findep/findep-operator/runtime/backend/native"
)

// TestRunCUDA runs the command with the built CUDA library: without a GPU it
// must fail with the reason, or continue on the CPU if that is allowed, and say
// so in the log.
func TestRunCUDA(t *testing.T) {
	if os.Getenv(native.LibraryVariable) == "" {
		t.Skipf("%s names no library; run `make test-cuda-build`", native.LibraryVariable)
	}
	run := []string{"run", "--model", tinyModel, "--prompt", "And it came", "--max-tokens", "2", "--verbose"}
	_, log, err := findepLog(t, append(run, "--backend", "cuda")...)
	if err == nil {
		t.Skip("there is a GPU")
	}
	if !strings.Contains(log, "no CUDA device") {
		t.Errorf("the error is %v; the log must say that there is no CUDA device:\n%s", err, log)
	}
	_, log, err = findepLog(t, append(run, "--backend", "auto")...)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log, "no GPU backend, using the CPU") || !strings.Contains(log, "no CUDA device") {
		t.Errorf("the log must say that the CPU takes the GPU's place, and why:\n%s", log)
	}
}
