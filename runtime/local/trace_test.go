// SPDX-License-Identifier: Apache-2.0

package local_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/findep/findep-operator/runtime/local"
)

// bar is one task of a trace, in microseconds.
type bar struct {
	process, lane string
	start, end    float64
	args          map[string]any
}

// key names the segment that a task belongs to.
func (b *bar) key() string {
	return fmt.Sprint(b.args["step"], b.args["kind"], b.args["layer"], b.args["microBatch"], b.args["segment"])
}

// fetchTrace records steps. A recording of somebody else, such as one by which
// waitForTrace asks whether this one has begun, is waited for.
func fetchTrace(in *local.Instance, steps int) (string, error) {
	ports := in.Config.PortsOf(0)
	url := fmt.Sprintf("http://%s/debug/trace?steps=%d&timeout=2m", net.JoinHostPort(local.Host, strconv.Itoa(ports.Metrics)), steps)
	client := http.Client{Timeout: 3 * time.Minute}
	for {
		r, err := client.Get(url) //nolint:noctx // bounded by its timeout
		if err != nil {
			return "", err
		}
		body, err := io.ReadAll(r.Body)
		_ = r.Body.Close()
		switch {
		case err != nil:
			return "", err
		case r.StatusCode == http.StatusOK:
			return string(body), nil
		case r.StatusCode != http.StatusConflict:
			return "", fmt.Errorf("%s: %s", r.Status, body)
		}
	}
}

func parseTrace(t *testing.T, text string) []bar {
	t.Helper()
	var trace struct {
		TraceEvents []struct {
			Name, Ph string
			Pid, Tid int
			TS, Dur  float64
			Args     map[string]any
		}
	}
	if err := json.Unmarshal([]byte(text), &trace); err != nil {
		t.Fatal(err)
	}
	processes, lanes := map[int]string{}, map[[2]int]string{}
	var bars []bar
	for _, e := range trace.TraceEvents {
		switch e.Name {
		case "process_name":
			processes[e.Pid] = e.Args["name"].(string)
		case "thread_name":
			lanes[[2]int{e.Pid, e.Tid}] = e.Args["name"].(string)
		default:
			bars = append(bars, bar{processes[e.Pid], lanes[[2]int{e.Pid, e.Tid}], e.TS, e.TS + e.Dur, e.Args})
		}
	}
	return bars
}

// TestTraceOfALiveInstance records steps of real processes: every resource of
// every rank does one thing at a time, and on the common clock no transfer
// arrives before it is sent.
func TestTraceOfALiveInstance(t *testing.T) {
	const steps = 6
	in, client := start(t, 1, 2)
	epoch := ready(t, client, 0)
	type answer struct {
		text string
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		text, err := fetchTrace(in, steps)
		done <- answer{text, err}
	}()
	all := prompts(t)[:4]
	var got answer
	for recorded := false; !recorded; {
		generate(t, client, epoch, 1, all)
		select {
		case got = <-done:
			recorded = true
		default:
		}
	}
	if got.err != nil {
		t.Fatal(got.err)
	}
	bars := parseTrace(t, got.text)
	processes, numbers := map[string]bool{}, map[any]bool{}
	for _, b := range bars {
		processes[b.process] = true
		numbers[b.args["step"]] = true
	}
	if len(processes) != 4 || len(numbers) != steps {
		t.Errorf("processes %v and %d steps; want the leader, three ranks and %d steps", processes, len(numbers), steps)
	}
	checkLanes(t, bars)
	checkCausality(t, bars)
}

func checkLanes(t *testing.T, bars []bar) {
	t.Helper()
	last := map[string]bar{}
	for _, b := range bars {
		lane := b.process + "/" + b.lane
		// Rounded to nanoseconds in the file.
		if before := last[lane]; b.start < before.end-0.002 {
			t.Errorf("%s: %v begins at %.3f, before %v ends at %.3f", lane, b.args, b.start, before.args, before.end)
		}
		last[lane] = b
	}
}

// checkCausality compares the two ends of each transfer. Clocks are only known
// to within what the trace itself says.
func checkCausality(t *testing.T, bars []bar) {
	t.Helper()
	uncertainty := func(process string) float64 {
		m := regexp.MustCompile(`clock ±(\d+) us`).FindStringSubmatch(process)
		if m == nil {
			t.Fatalf("process %q does not say how well its clock is known", process)
		}
		v, _ := strconv.ParseFloat(m[1], 64)
		return v + 1
	}
	sent := map[string]bar{}
	for _, b := range bars {
		if strings.Contains(b.process, "(Attention)") && b.lane == "A2ELink" {
			sent[b.key()] = b
		}
	}
	checked := 0
	for _, b := range bars {
		if !strings.Contains(b.process, "(Expert)") || b.lane != "A2ELink" {
			continue
		}
		s, known := sent[b.key()]
		if !known {
			t.Fatalf("%v was received and never sent", b.args)
		}
		if slack := uncertainty(b.process) + uncertainty(s.process); b.end+slack < s.start {
			t.Errorf("%v: received by %.0f us, sent from %.0f us; the clocks are known to %.0f us", b.args, b.end, s.start, slack)
		}
		checked++
	}
	if checked == 0 {
		t.Error("the trace has no transfers")
	}
}
