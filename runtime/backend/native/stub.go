// SPDX-License-Identifier: Apache-2.0

//go:build !findep_native || !cgo

package native

import (
	"errors"

	"github.com/findep/findep-operator/runtime/backend"
)

// Available tells whether the native backends are compiled in.
const Available = false

// Build identifies the linked CPU library; empty without one.
const Build = ""

var errNotBuilt = errors.New("this program was built without native backends: run `make native`, then build with cgo and -tags findep_native")

func openCPU(backend.Options) (backend.Device, error)  { return nil, errNotBuilt }
func openCUDA(backend.Options) (backend.Device, error) { return nil, errNotBuilt }
func openAuto(backend.Options) (backend.Device, error) { return nil, errNotBuilt }
