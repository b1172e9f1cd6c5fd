// SPDX-License-Identifier: Apache-2.0

package solver_test

import (
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

func TestMemoReturnsWhatSolveDoes(t *testing.T) {
	memo := solver.NewMemo(8)
	for round := range 3 {
		for seed := range uint64(40) {
			r := rand.New(rand.NewPCG(seed, 21))
			p := randomForm(r, int(seed)%(len(forms)+1))
			for _, policy := range []plan.Policy{plan.FinDEP, plan.PPPipe} {
				got, err := memo.Solve(t.Context(), p, policy)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(solve(t, p, policy), got); diff != "" {
					t.Fatalf("round %d, seed %d, %s (-solved +remembered):\n%s", round, seed, policy, diff)
				}
			}
			if n := memo.Len(); n > 8 {
				t.Fatalf("%d results are remembered, want at most 8", n)
			}
		}
	}
}

func TestMemoRemembers(t *testing.T) {
	memo, p := solver.NewMemo(4), standardL()
	p.Limits.SamplesInFlight = 2
	again := func() solver.Result {
		r, err := memo.Solve(t.Context(), p, plan.FinDEP)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	again()
	if n := testing.AllocsPerRun(10, func() { again() }); n != 0 || memo.Len() != 1 {
		t.Errorf("asking again allocates %v times and leaves %d results, want 0 and 1", n, memo.Len())
	}
	p.Batch = -1
	if _, err := memo.Solve(t.Context(), p, plan.FinDEP); err == nil {
		t.Error("an invalid problem has a result")
	}
}

// Every field of a problem must be part of what is remembered, or two problems
// would share one result.
func TestMemoSeesEveryField(t *testing.T) {
	p := standardL()
	p.Memory = memoryL(24 << 30)
	base, ok := solver.KeyOf(p, plan.FinDEP)
	if !ok {
		t.Fatal("no key")
	}
	if other, _ := solver.KeyOf(p, plan.PPPipe); other == base {
		t.Error("the policy is not part of the key")
	}
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		old := reflect.New(v.Type()).Elem()
		old.Set(v)
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				walk(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
			return
		case reflect.Pointer:
			walk(path, v.Elem())
			v.SetZero()
		case reflect.Float64:
			v.SetFloat(math.Nextafter(v.Float(), 1e9))
		case reflect.Int, reflect.Int64:
			v.SetInt(v.Int() + 1)
		case reflect.Bool:
			v.SetBool(!v.Bool())
		case reflect.String:
			v.SetString(string(plan.AASS))
		case reflect.Slice:
			return
		}
		if k, _ := solver.KeyOf(p, plan.FinDEP); k == base {
			t.Errorf("%s is not part of the key", path)
		}
		v.Set(old)
	}
	walk("Problem", reflect.ValueOf(p).Elem())
	p.PerLayer = make([]solver.Stages, p.Layers)
	if _, ok := solver.KeyOf(p, plan.FinDEP); ok {
		t.Error("layers that differ have a key although they are not part of it")
	}
}
