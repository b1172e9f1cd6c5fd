// SPDX-License-Identifier: Apache-2.0

// Package conformance holds the tests that every backend must pass. Run
// compares each operation, for many shapes and weight types, with the plain Go
// reference, and tests the contract of devices, buffers, streams and events.
//
// Every matrix lies between guard zones, and between its rows where the layout
// is strided; a backend that writes anywhere but into its outputs fails, as does
// one that changes an input. Outputs start as NaN, so that what is not written
// shows. Where sums must be exact, values are small integers.
//
// A subtest's name is the case, for example
//
//	go test ./runtime/backend/native -run 'TestConformance/matmul/BF16/n=5,in=64,out=33'
//
// Operations that Supports denies are skipped by name, never silently.
//
// To add an operation: append its cases to allCases, and its misuse to misuses.
package conformance

import (
	"fmt"
	"slices"
	"testing"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/reference"
)

// testCase is one operation with one shape and weight type.
type testCase struct {
	op     backend.Op
	weight backend.DType
	shape  string
	// tolerance is relative to the value and to the output's root mean square;
	// 0 asks for equality.
	tolerance float64
	// run allocates operands from the bench and issues the operation.
	run func(b *bench) error
}

// weightTypes are the weight types that are tried.
var weightTypes = []backend.DType{backend.F32, backend.BF16, backend.F16}

// opNames are the first part of a case's name.
var opNames = [backend.NumOps]string{
	backend.OpEmbed: "embed", backend.OpRMSNorm: "rmsnorm", backend.OpMatMul: "matmul",
	backend.OpHeadMatMul: "headmatmul", backend.OpRope: "rope", backend.OpScatterRows: "scatterrows",
	backend.OpGatherRows: "gatherrows", backend.OpAttention: "attention", backend.OpRouter: "router",
	backend.OpDispatch: "dispatch", backend.OpGroupExperts: "groupexperts", backend.OpExpertMLP: "expertmlp",
	backend.OpCombineRows: "combinerows", backend.OpSwiGLU: "swiglu", backend.OpAdd: "add",
}

// allCases lists the cases of every operation.
func allCases() []testCase {
	return slices.Concat(embedCases(), rmsNormCases(), matMulCases(), headMatMulCases(), ropeCases(), rowCases(),
		attentionCases(), routerCases(), dispatchCases(), groupExpertsCases(), expertMLPCases(), elementwiseCases())
}

// Run tests the backend whose devices open returns. Each call of open must
// give an independent device.
func Run(t *testing.T, open func() (backend.Device, error)) {
	t.Helper()
	dev := mustOpen(t, open)
	ref := reference.New(reference.DefaultMemory)
	for op, byType := range grouped(allCases()) {
		t.Run(opNames[op], func(t *testing.T) {
			for _, weight := range weightTypes {
				if cases := byType[weight]; len(cases) > 0 {
					t.Run(weight.String(), func(t *testing.T) { runCases(t, dev, ref, cases) })
				}
			}
		})
	}
	t.Run("contract", func(t *testing.T) { runContract(t, open) })
}

// hiddenTolerance is the tolerance for experts whose hidden values are rounded: a
// difference in the last bit of F32 may round one of them to its neighbour in
// BF16, 2^-8 apart.
const hiddenTolerance = 4e-3

// RunRounding tests the products with weights of 16 bits of a backend that rounds
// activations to the weights' type, as reference.NewRounding does. Everything else
// is Run's, on a device that does not round.
func RunRounding(t *testing.T, open func() (backend.Device, error)) {
	t.Helper()
	dev := mustOpen(t, open)
	ref := reference.NewRounding(reference.DefaultMemory)
	byOp := grouped(allCases())
	for _, op := range []backend.Op{backend.OpMatMul, backend.OpHeadMatMul, backend.OpExpertMLP} {
		t.Run(opNames[op], func(t *testing.T) {
			for _, weight := range []backend.DType{backend.BF16, backend.F16} {
				cases := byOp[op][weight]
				if op == backend.OpExpertMLP {
					for i := range cases {
						cases[i].tolerance = hiddenTolerance
					}
				}
				t.Run(weight.String(), func(t *testing.T) { runCases(t, dev, ref, cases) })
			}
		})
	}
}

func mustOpen(t *testing.T, open func() (backend.Device, error)) backend.Device {
	t.Helper()
	dev, err := open()
	if err != nil {
		t.Fatalf("opening the device: %v", err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Errorf("closing the device: %v", err)
		}
	})
	return dev
}

// grouped sorts cases by operation, in the operations' order, and type.
func grouped(cases []testCase) []map[backend.DType][]testCase {
	byOp := make([]map[backend.DType][]testCase, backend.NumOps)
	for i := range byOp {
		byOp[i] = map[backend.DType][]testCase{}
	}
	for _, c := range cases {
		byOp[c.op][c.weight] = append(byOp[c.op][c.weight], c)
	}
	return byOp
}

func runCases(t *testing.T, dev, ref backend.Device, cases []testCase) {
	if !dev.Supports(cases[0].op, cases[0].weight) {
		t.Skipf("%s does not support %s with %s weights", dev.Name(), opNames[cases[0].op], cases[0].weight)
	}
	for _, c := range cases {
		for _, l := range layoutsOf(c) {
			t.Run(c.shape+","+l.name, func(t *testing.T) { runCase(t, dev, ref, c, l) })
		}
	}
}

// layoutsOf are the layouts in which a case runs. Weights of 16 bits have one more:
// libraries' kernels read them at aligned addresses only, and must not take the
// columns for the stride.
func layoutsOf(c testCase) []layout {
	if c.weight == backend.BF16 {
		return []layout{contiguous, strided, padded}
	}
	return []layout{contiguous, strided}
}

func runCase(t *testing.T, dev, ref backend.Device, c testCase, l layout) {
	seed := fmt.Sprint(c.op, c.weight, c.shape)
	want := newBench(t, ref, l, seed)
	if err := c.run(want); err != nil {
		t.Fatalf("the reference refuses the case: %v", err)
	}
	got := newBench(t, dev, l, seed)
	if err := c.run(got); err != nil {
		t.Fatalf("%s: %v", dev.Name(), err)
	}
	if err := got.stream.Synchronize(); err != nil {
		t.Fatalf("%s: %v", dev.Name(), err)
	}
	for i := range got.operands {
		got.operands[i].compare(t, got, want, want.operands[i], c.tolerance)
	}
}
