// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/findep/findep-operator/runtime/bench"
	"github.com/findep/findep-operator/runtime/plan"
)

func TestBenchComparesPoliciesOnRealProcesses(t *testing.T) {
	for name, tc := range map[string]struct {
		link string
		args []string
	}{
		"a checkpoint":                  {"loopback by shm", []string{"--model", tinyModel}},
		"random weights, causal chunks": {"loopback by tls", []string{"--shape", tinyModel + "/config.json", "--chunks", "auto", "--shared-memory", "off"}},
		"a delay, no TLS":               {"loopback by tcp delay 1ms", []string{"--model", tinyModel, "--link-delay", "1ms", "--plain"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := findep(t, append([]string{"bench", "--backend", testBackend(t), "--attention", "1", "--expert", "2",
				"--prompt-tokens", "32", "--output-tokens", "2", "--batch", "3", "--samples-in-flight", "2", "--repeat", "2", "-o", "json"}, tc.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			var r bench.Report
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatalf("%v in %s", err, out)
			}
			if len(r.Policies) != 3 || r.Machine.Cores < 1 || r.Machine.Backend == "" || r.Machine.Link != tc.link {
				t.Fatalf("report %+v", r)
			}
			for i, want := range []plan.Policy{plan.FinDEP, plan.PPPipe, plan.Sequential} {
				p := r.Policies[i]
				if p.Policy != want || p.Plan.Policy != want || p.TokensPerSecond.Min <= 0 || p.MakespanMilliseconds.Median <= 0 ||
					p.PredictedMakespanMilliseconds <= 0 || p.Busy["attention"] <= 0 || p.Busy["expert"] <= 0 {
					t.Errorf("policy %d is %+v", i, p)
				}
			}
		})
	}
}

// TestBenchAllowsChunksForOne: the contenders of one run differ in chunks only.
func TestBenchAllowsChunksForOne(t *testing.T) {
	out, err := findep(t, "bench", "--backend", testBackend(t), "--model", tinyModel, "--prompt-tokens", "48", "--repeat", "1",
		"--policies", "FinDEP+chunks,FinDEP", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var r bench.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if len(r.Policies) != 2 || r.Policies[0].Policy != plan.FinDEP || r.Policies[1].Plan.Chunks != 1 {
		t.Errorf("contenders %+v", r.Policies)
	}
}

func TestBenchChangesTrafficOnRealProcesses(t *testing.T) {
	out, err := findep(t, "bench", "--backend", testBackend(t), "--model", tinyModel, "--policies", "FinDEP+chunks",
		"--traffic", "prefill:4x8,prefill:1x64,decode:8x16", "--settle-steps", "3", "--turn-steps", "2", "--repeat", "2", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var r bench.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if len(r.Traffic) != 3 || len(r.Policies) != 0 {
		t.Fatalf("report %+v", r)
	}
	for i, batch := range []int{4, 1, 8} {
		if got := r.Traffic[i]; got.Plan.R1*got.Plan.MicroBatchSize < batch || got.Steps != 7 || got.Ratio.Median <= 0 {
			t.Errorf("traffic %d: %+v", i, got)
		}
	}
}

func TestBenchNamesWhatIsWrong(t *testing.T) {
	for label, tc := range map[string]struct {
		args []string
		want string
	}{
		"nothing to run":   {nil, "either --model or --shape"},
		"both":             {[]string{"--model", tinyModel, "--shape", "x"}, "either --model or --shape"},
		"unknown policy":   {[]string{"--model", tinyModel, "--policies", "Fast"}, `"Fast"`},
		"no such shape":    {[]string{"--shape", "absent.json"}, "absent.json"},
		"endless delay":    {[]string{"--model", tinyModel, "--link-delay", "1h"}, "--link-delay is 1h"},
		"unknown chunks":   {[]string{"--model", tinyModel, "--chunks", "maybe"}, `"maybe"`},
		"unknown sharing":  {[]string{"--model", tinyModel, "--shared-memory", "on"}, `--shared-memory is "on"`},
		"unknown output":   {[]string{"--model", tinyModel, "-o", "xml"}, `"xml"`},
		"unknown traffic":  {[]string{"--model", tinyModel, "--traffic", "chat:1x1"}, `"chat:1x1"`},
		"empty turns":      {[]string{"--model", tinyModel, "--traffic", "decode:1x1", "--turn-steps", "0"}, "turn is 0"},
		"no rounds":        {[]string{"--model", tinyModel, "--repeat", "0"}, "repeat is 0"},
		"too many experts": {[]string{"--model", tinyModel, "--expert", "17"}, "only 16 routed experts"},
	} {
		t.Run(label, func(t *testing.T) {
			_, err := findep(t, append([]string{"bench"}, tc.args...)...)
			if err == nil || !strings.Contains(err.Error(), tc.want) || exitCode(err) != exitUsage {
				t.Errorf("got %v, want %q and exit code %d", err, tc.want, exitUsage)
			}
		})
	}
}
