// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAuditLogIsCountedByUser(t *testing.T) {
	const log = `{"verb":"create","user":{"username":"subject"},"objectRef":{"resource":"pods"}}
{"verb":"patch","user":{"username":"subject"},"objectRef":{"resource":"moedeployments","subresource":"status"}}
{"verb":"get","user":{"username":"subject"},"objectRef":{"resource":"pods"}}
{"verb":"create","user":{"username":"controller-manager"},"objectRef":{"resource":"pods"}}
`
	got, err := countAudit(strings.NewReader(log))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]calls{
		"subject":            {"create pods": 1, "patch moedeployments/status": 1, "get pods": 1},
		"controller-manager": {"create pods": 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if c := got["subject"]; c.writes() != 2 || c.total() != 3 {
		t.Errorf("%d writes of %d requests, want 2 of 3", c.writes(), c.total())
	}
	if _, err := countAudit(strings.NewReader("{")); err == nil {
		t.Error("a line that is not JSON was accepted")
	}
}

func TestUsageReadsProc(t *testing.T) {
	stat := "42 (kube api (x)) S 1 42 42 0 -1 4194560 1 2 3 4 250 50 5 6 20 0 9 0 1 2 3\n"
	u, err := parseUsage(stat, "Name:\tx\nVmHWM:\t  204800 kB\nVmRSS:\t 1 kB\n")
	if err != nil {
		t.Fatal(err)
	}
	if want := (usage{CPUSeconds: 3, PeakMiB: 200}); u != want {
		t.Errorf("got %+v, want %+v", u, want)
	}
	if _, err := parseUsage("42 (x) S", ""); err == nil {
		t.Error("a short line was accepted")
	}
}

func TestRangesCatchAStepBack(t *testing.T) {
	r := &result{Groups: 10, PodsPerGroup: 16, WritesPerPod: 1.4, Create: spending{Calls: calls{"patch moedeployments/status": 20}}, Rest: &spending{}}
	if err := checkRanges(r, recordedRanges); err != nil {
		t.Errorf("figures as recorded: %v", err)
	}
	r.Rest.Writes = 1
	if err := checkRanges(r, recordedRanges); err == nil || !strings.Contains(err.Error(), "writesAtRest") {
		t.Errorf("a write at rest: %v, want a complaint about writesAtRest", err)
	}
	if err := checkRanges(r, []byte("- {figure: nonsense, limit: 1}")); err == nil || !strings.Contains(err.Error(), "writesPerPod") {
		t.Errorf("an unknown figure: %v, want the names of the known ones", err)
	}
}

func TestResultsMakeATable(t *testing.T) {
	bare := &result{Subject: "bare", Groups: 10, PodsPerGroup: 16, RunningSeconds: 2, PodsPerSecond: 80, WritesPerPod: 1}
	findep := &result{
		Subject: "findep", Groups: 10, PodsPerGroup: 16, CreatedSeconds: 3, RunningSeconds: 4, PodsPerSecond: 40, AvailableSeconds: 5,
		WritesPerPod: 1.25, Create: spending{usage: usage{CPUSeconds: 2, PeakMiB: 64}},
		Rest: &spending{Seconds: 60, Reconciles: 7}, Restart: &spending{Seconds: 1.5}, Roll: &spending{Seconds: 9, Writes: 320},
	}
	var out strings.Builder
	if err := markdown(&out, []*result{bare, findep}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	want := []string{
		"| bare | 160 | 0.0 | 2.0 | 80.0 | 1.00 |  | 1.00 |  |  |  |  |  |",
		"| findep | 160 | 3.0 | 4.0 | 40.0 | 0.50 | 5.0 | 1.25 | 2.0 | 64 | 0 writes, 7 passes in 60 s | 0 writes, 0 passes, 1.5 s | 9.0 s, 2.00 writes per pod |",
	}
	if diff := cmp.Diff(want, lines[2:]); diff != "" {
		t.Error(diff)
	}
}
