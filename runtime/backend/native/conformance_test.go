// SPDX-License-Identifier: Apache-2.0

//go:build findep_native && cgo

package native_test

import (
	"testing"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/conformance"
	"github.com/findep/findep-operator/runtime/backend/native"
)

func open() (backend.Device, error) { return backend.Open(native.CPU, backend.Options{}) }

func TestConformance(t *testing.T) { conformance.Run(t, open) }

func FuzzIndexArithmetic(f *testing.F) { conformance.Fuzz(f, open) }
