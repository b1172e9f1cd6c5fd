// SPDX-License-Identifier: Apache-2.0

package reference_test

import (
	"testing"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/conformance"
	"github.com/findep/findep-operator/runtime/backend/reference"
)

func TestConformance(t *testing.T) {
	conformance.Run(t, func() (backend.Device, error) { return backend.Open(reference.Name, backend.Options{}) })
}
