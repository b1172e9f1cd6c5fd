// SPDX-License-Identifier: Apache-2.0

//go:build long

package solver_test

const problemsPerForm = 10_000
