// SPDX-License-Identifier: Apache-2.0

// Package evaluation asks how far the model of runtime/solver can be trusted
// and where FinDEP wins: it sets predictions beside the numbers that the FinDEP
// paper (arXiv 2512.21487) published, and runs the experiments behind
// docs/evaluation.md, which hack/evaluation writes.
//
// Everything is computed and deterministic: randomness comes from seeds, there
// are no clocks or files, and nothing here was measured. Throughputs are in
// tokens per second and times in milliseconds unless a name says otherwise.
package evaluation
