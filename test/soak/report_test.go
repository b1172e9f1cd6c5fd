// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// spread is a median with the worst value, in milliseconds.
type spread struct {
	Median float64 `json:"median"`
	Worst  float64 `json:"worst"`
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{-1, -1}
	}
	slices.Sort(values)
	return spread{values[len(values)/2], values[len(values)-1]}
}

// kindReport sums up the faults of one kind.
type kindReport struct {
	Kind      string `json:"kind"`
	Faults    int    `json:"faults"`
	Detected  spread `json:"detectedMilliseconds"`
	CauseOver spread `json:"causeOverMilliseconds"`
	Served    spread `json:"servedMilliseconds"`
	Recovery  spread `json:"recoveryMilliseconds"`
}

type report struct {
	Seed     int          `json:"seed"`
	When     string       `json:"when"`
	Cores    int          `json:"cores"`
	Requests requestCount `json:"requests"`
	Kinds    []kindReport `json:"kinds"`
	Outcomes []outcome    `json:"faults"`
	// Processes are the first and last samples of those that are still there.
	Processes [][2]usage `json:"processes"`
}

type requestCount struct {
	Answered int64 `json:"answered"`
	Streamed int64 `json:"streamed"`
	// Retried broke off with the server that held them, Refused were told to
	// come back; both were then answered.
	Retried int64 `json:"retried"`
	Refused int64 `json:"refused"`
	// Failures are requests lost or answered wrongly, and leaks.
	Failures int `json:"failures"`
}

func (s *soak) report(t *testing.T, seed int, outcomes []outcome) {
	t.Helper()
	r := report{
		Seed: seed, When: time.Now().UTC().Format(time.RFC3339), Cores: runtime.NumCPU(), Outcomes: outcomes,
		Requests: requestCount{s.load.answered.Load(), s.load.streamed.Load(), s.load.retried.Load(), s.load.refusals.Load(), len(s.load.failures())},
	}
	for _, k := range append(kinds(), kind{name: "kill the same expert rank"}) {
		if of := sum(k.name, outcomes); of.Faults > 0 {
			r.Kinds = append(r.Kinds, of)
		}
	}
	for pid, last := range s.last {
		r.Processes = append(r.Processes, [2]usage{s.first[pid], last})
	}
	slices.SortFunc(r.Processes, func(a, b [2]usage) int { return strings.Compare(a[1].Name, b[1].Name) })
	t.Log("\n" + r.table())
	if path := os.Getenv("FINDEP_SOAK_REPORT"); path != "" {
		b, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(b, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func sum(name string, outcomes []outcome) kindReport {
	of := kindReport{Kind: name}
	var detected, over, served, recovery []float64
	for _, o := range outcomes {
		if o.Kind != name {
			continue
		}
		of.Faults++
		if o.Detected >= 0 {
			detected = append(detected, o.Detected)
		}
		over, served, recovery = append(over, o.CauseOver), append(served, o.Served), append(recovery, o.Recovery)
	}
	of.Detected, of.CauseOver, of.Served, of.Recovery = spreadOf(detected), spreadOf(over), spreadOf(served), spreadOf(recovery)
	return of
}

// table is the report for people; a column holds median and worst in seconds.
func (r *report) table() string {
	var b strings.Builder
	both := func(s spread) string {
		if s.Worst < 0 {
			return "-"
		}
		return fmt.Sprintf("%.1f / %.1f", s.Median/1000, s.Worst/1000)
	}
	b.WriteString("| fault | times | detected | cause over | served again | recovery |\n|---|---|---|---|---|---|\n")
	for _, k := range r.Kinds {
		fmt.Fprintf(&b, "| %s | %d | %s | %s | %s | %s |\n", k.Kind, k.Faults, both(k.Detected), both(k.CauseOver), both(k.Served), both(k.Recovery))
	}
	fmt.Fprintf(&b, "\n%d requests answered (%d streamed), %d tried again after their server was killed, %d refused and told when to come back, %d failures\n",
		r.Requests.Answered, r.Requests.Streamed, r.Requests.Retried, r.Requests.Refused, r.Requests.Failures)
	for _, p := range r.Processes {
		fmt.Fprintf(&b, "%s: %.0f -> %.0f MB, %d -> %d goroutines, %d -> %d descriptors, %d -> %d sockets over %d faults, weights loaded %d times\n",
			p[1].Name, p[0].Megabytes, p[1].Megabytes, p[0].Goroutines, p[1].Goroutines, p[0].Descriptors, p[1].Descriptors,
			p[0].Sockets, p[1].Sockets, p[1].Faults-p[0].Faults, p[1].WeightLoads)
	}
	return b.String()
}
