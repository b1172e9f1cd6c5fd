// SPDX-License-Identifier: Apache-2.0

//go:build findep_native && cgo

package native_test

import (
	"testing"

	"github.com/findep/findep-operator/runtime/backend/conformance"
)

func BenchmarkCPU(b *testing.B) { conformance.Bench(b, open) }
