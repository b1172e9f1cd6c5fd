// SPDX-License-Identifier: Apache-2.0

package evaluation

import (
	"math"
	"testing"
)

func paper(t *testing.T) *Published {
	t.Helper()
	p, err := Paper()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPublishedNumbers(t *testing.T) {
	p := paper(t)
	const deepseek, qwen = "deepseek-ai/DeepSeek-V2", "Qwen/Qwen3-235B-A22B"
	for _, want := range []Cell{
		{Table: 5, Model: deepseek, Tokens: 1024, Testbed: "A", PPPipe: 48.50, FinDEP: 53.40, Printed: 1.10},
		{Table: 5, Model: deepseek, Tokens: 4096, Testbed: "D", PPPipe: 120.83, FinDEP: 132.07, Printed: 1.10},
		{Table: 5, Model: qwen, Tokens: 8192, Testbed: "B", PPPipe: 15.98, FinDEP: 25.71, Printed: 1.61},
		{Table: 5, Model: qwen, Tokens: 4096, Testbed: "C", PPPipe: 28.01, FinDEP: 30.06, Printed: 1.07},
		{Table: 6, Model: deepseek, Tokens: 3072, Testbed: "B", PPPipe: 44.66, FinDEP: 50.13, Printed: 1.12},
		{Table: 6, Model: qwen, Tokens: 6144, Testbed: "D", PPPipe: 67.07, FinDEP: 78.69, Printed: 1.17},
	} {
		found := false
		for _, c := range p.Of(want.Table, want.Testbed) {
			found = found || c == want
		}
		if !found {
			t.Errorf("no cell %+v", want)
		}
	}
	misprints := 0
	for i := range p.Cells {
		c := &p.Cells[i]
		if c.Misprint != "" {
			misprints++
		}
		if wrong := math.Abs(c.Gain()-c.Printed) > 0.011; wrong != (c.Misprint != "") {
			t.Errorf("%+v: the throughputs give %.3f", *c, c.Gain())
		}
	}
	if len(p.Cells) != 44 || misprints != 2 {
		t.Errorf("%d cells with %d misprints, want 28 + 16 with 2", len(p.Cells), misprints)
	}
	for i := range p.Testbeds {
		b := &p.Testbeds[i]
		if len(p.Of(OfflineTable, b.Name)) != 7 || len(p.Of(OnlineTable, b.Name)) != 4 {
			t.Errorf("testbed %s has not 7 and 4 cells", b.Name)
		}
		for _, model := range []string{deepseek, qwen} {
			if s := b.Split(model); s.Total() != b.GPUs || b.Layers[model] == 0 {
				t.Errorf("testbed %s: %s runs online on %v of %d GPUs in %d layers", b.Name, model, s, b.GPUs, b.Layers[model])
			}
		}
	}
}

func TestAssess(t *testing.T) {
	cell := func(pppipe, findep, gain float64) Prediction {
		p := Prediction{Cell: Cell{PPPipe: 1, FinDEP: gain}}
		p.PPPipe.Result.TokensPerSecond, p.FinDEP.Result.TokensPerSecond = 1e3*pppipe, 1e3*findep
		return p
	}
	left := cell(1, 9, 1)
	left.Cell.Misprint = "left out"
	a := Assess([]Prediction{cell(1, 1.1, 1.2), cell(math.E, 1.5*math.E, 1.4), left, cell(1, 1, 1.02)})
	if a.Cells != 3 || a.Agreeing != 3 || a.Rank != 1 || math.Abs(a.Median-0.1) > 1e-9 || math.Abs(a.Worst-0.1) > 1e-9 || math.Abs(a.PPPipeRMS-math.Sqrt(1.0/3)) > 1e-9 {
		t.Errorf("%+v", a)
	}
	if g := AssessConstant([]Prediction{cell(1, 1.1, 1.2), cell(1, 1, 1)}, 1); g.Agreeing != 1 || math.Abs(g.Bias+0.1) > 1e-9 || g.Rank != 0 {
		t.Errorf("a constant guess: %+v", g)
	}
	if empty := Assess(nil); empty != (Accuracy{}) {
		t.Errorf("nothing: %+v", empty)
	}
}
