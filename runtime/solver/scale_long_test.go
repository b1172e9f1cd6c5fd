// SPDX-License-Identifier: Apache-2.0

//go:build long

package solver_test

import "github.com/findep/findep-operator/runtime/schedule"

const (
	problemsPerForm = 10_000
	gainProblems    = 2000
)

var largeLayers = []int{2, 60, schedule.MaxLayers}
