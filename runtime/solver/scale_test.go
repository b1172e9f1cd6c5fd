// SPDX-License-Identifier: Apache-2.0

//go:build !long

package solver_test

// problemsPerForm is how many random problems of each form are compared with
// exhaustive search; build with -tags long for many more.
const problemsPerForm = 1500

// gainProblems is how many random problems are compared with the baselines.
const gainProblems = 150

// largeLayers are the depths of the largest problems.
var largeLayers = []int{60}
