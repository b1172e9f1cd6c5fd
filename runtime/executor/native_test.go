// SPDX-License-Identifier: Apache-2.0

//go:build findep_native

package executor_test

// With the native library built, the tests below run on its CPU kernels.
import _ "github.com/findep/findep-operator/runtime/backend/native"
