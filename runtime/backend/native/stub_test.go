// SPDX-License-Identifier: Apache-2.0

//go:build !findep_native || !cgo

package native_test

import (
	"strings"
	"testing"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/native"
)

func TestNotBuilt(t *testing.T) {
	for _, name := range []string{native.CPU, native.CUDA, native.Auto} {
		if _, err := backend.Open(name, backend.Options{}); err == nil || !strings.Contains(err.Error(), "make native") {
			t.Errorf("opening %s: %v; the error must say how to get it", name, err)
		}
	}
}
