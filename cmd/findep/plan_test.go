// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// volatile is what may differ from run to run, or with a better search: times,
// counts and the wording of explanations, which the solver's tests cover.
var volatile = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`"(candidates|solveMicroseconds)": [0-9.e+-]+`), `"$1": 0`},
	{regexp.MustCompile(`(candidates|solveMicroseconds): [0-9.e+-]+`), `$1: 0`},
	{regexp.MustCompile(`searched  .*`), `searched  ...`},
	{regexp.MustCompile(`(?s)"explanation": \[\s*"[^]]*"\s*\]`), `"explanation": ["..."]`},
	{regexp.MustCompile(`(?m)^explanation:\n(- .*\n|  .*\n)+`), "explanation: ...\n"},
	{regexp.MustCompile(`(?s)\nwhy\n  .*`), "\nwhy\n  ...\n"},
	{regexp.MustCompile(`"why": "[^"]*"`), `"why": "..."`},
	{regexp.MustCompile(`"message": "[^"]*"`), `"message": "..."`},
	{regexp.MustCompile(`(?m)^  message: '[^']*'`), `  message: ...`},
	{regexp.MustCompile(`(?m)^(infeasible \(\w+\): ).*`), `$1...`},
}

// digits are numbers that may end in the noise of sums.
var digits = regexp.MustCompile(`\d+\.\d{4,}`)

func rounded(text string) string {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return text
	}
	return strconv.FormatFloat(v, 'g', 7, 64)
}

func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	for _, v := range volatile {
		got = v.pattern.ReplaceAllString(got, v.with)
	}
	got = digits.ReplaceAllStringFunc(got, rounded)
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil { //nolint:gosec // a file of the repository
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites it):\n%s", path, diff)
	}
}

func TestSolveGolden(t *testing.T) {
	for _, tc := range []struct {
		file, format, golden string
		code                 int
	}{
		{"raw.yaml", "table", "raw.table", 0},
		{"raw.yaml", "json", "raw.json", 0},
		{"raw.yaml", "yaml", "raw.yaml", 0},
		{"deepseek-v2.yaml", "table", "deepseek-v2.table", 0},
		{"infeasible.json", "table", "infeasible.table", exitInfeasible},
		{"infeasible.json", "json", "infeasible.json", exitInfeasible},
		{"infeasible.json", "yaml", "infeasible.yaml", exitInfeasible},
	} {
		t.Run(tc.golden, func(t *testing.T) {
			out, err := findep(t, "solve", "-f", filepath.Join(problems, tc.file), "-o", tc.format)
			if code := codeOf(err); code != tc.code {
				t.Fatalf("exit code %d (%v), want %d", code, err, tc.code)
			}
			checkGolden(t, tc.golden, out)
		})
	}
}

func codeOf(err error) int {
	if err == nil {
		return 0
	}
	return exitCode(err)
}

// TestSolveKeys pins the keys that programs rely on.
func TestSolveKeys(t *testing.T) {
	for _, file := range []string{"raw.yaml", "free-split.yaml"} {
		out, err := findep(t, "solve", "-f", filepath.Join(problems, file), "-o", "json")
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"microBatchSize", "r1", "r2", "order", "chunks", "makespanMilliseconds", "tokensPerSecond",
			"layerPeriodMilliseconds", "regime", "candidates", "solveMicroseconds", "split", "baselines", "memory", "explanation"} {
			if got[key] == nil {
				t.Errorf("%s: %s is missing in\n%s", file, key, out)
			}
		}
		for _, name := range []string{"pppipe", "sequential"} {
			b, ok := got["baselines"].(map[string]any)[name].(map[string]any)
			if !ok || b["makespanMilliseconds"].(float64) <= 0 || b["gain"].(float64) < 1-1e-9 {
				t.Errorf("%s: baseline %s is %v", file, name, b)
			}
		}
	}
}

// TestSolveIsTheSolver compares with the solver called directly.
func TestSolveIsTheSolver(t *testing.T) {
	j, err := parse(rawText)
	if err != nil {
		t.Fatal(err)
	}
	out, err := findep(t, "solve", "-f", filepath.Join(problems, "raw.yaml"), "-o", "yaml")
	if err != nil {
		t.Fatal(err)
	}
	var got solveReport
	if err := yaml.UnmarshalStrict([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	for policy, line := range map[plan.Policy]*planReport{plan.FinDEP: &got.planReport, plan.PPPipe: got.Baselines["pppipe"], plan.Sequential: got.Baselines["sequential"]} {
		want, err := solver.Solve(j.raw, policy)
		if err != nil {
			t.Fatal(err)
		}
		if line.Policy != policy || line.R1 != want.R1 || line.R2 != want.R2 || line.MicroBatchSize != want.MicroBatchSize ||
			line.Order != want.Order || math.Abs(line.Makespan-want.MakespanMilliseconds) > 1e-9 || line.Regime != want.Regime {
			t.Errorf("%s: %+v, want %+v", policy, line, want)
		}
	}
}

func TestInfeasibleShape(t *testing.T) {
	for name, tc := range map[string]struct {
		text   string
		reason solver.Reason
		group  plan.Role
	}{
		"memory":  {strings.Replace(modelText, "h20", "a10", 1), solver.MemoryExceeded, plan.Attention},
		"experts": {strings.Replace(modelText, "expert: 5", "expert: 2", 1), solver.MemoryExceeded, plan.Expert},
		"latency": {strings.Replace(rawText, "samplesInFlight: 2", "makespanMilliseconds: 1", 1), solver.LatencyExceeded, ""},
		"no split": {strings.Replace(strings.Replace(modelText, "h20", "a10", 1), "{attention: 3, expert: 5}", "{total: 8}", 1),
			solver.MemoryExceeded, plan.Attention},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "p.yaml")
			if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := findep(t, "solve", "-f", path, "-o", "json")
			if codeOf(err) != exitInfeasible {
				t.Fatalf("got %v", err)
			}
			var got struct {
				Infeasible map[string]json.RawMessage `json:"infeasible"`
			}
			if err := json.Unmarshal([]byte(out), &got); err != nil {
				t.Fatal(err)
			}
			for _, key := range []string{"group", "needBytes", "haveBytes", "reason", "nearest"} {
				if got.Infeasible[key] == nil {
					t.Errorf("%s is missing in %s", key, out)
				}
			}
			if r, g := string(got.Infeasible["reason"]), string(got.Infeasible["group"]); r != `"`+string(tc.reason)+`"` || g != `"`+string(tc.group)+`"` {
				t.Errorf("reason %s, group %s; want %s, %s", r, g, tc.reason, tc.group)
			}
			if n := string(got.Infeasible["nearest"]); name == "experts" && !strings.Contains(n, `"split"`) {
				t.Errorf("nearest is %s, want a split that fits", n)
			}
			for _, args := range [][]string{{"simulate", "-f", path}, {"simulate", "-f", path, "-o", "html"}} {
				if _, err := findep(t, args...); codeOf(err) != exitInfeasible {
					t.Errorf("%v: %v", args, err)
				}
			}
		})
	}
}

func TestUsageErrors(t *testing.T) {
	raw := filepath.Join(problems, "raw.yaml")
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"solve without a file":    {[]string{"solve"}, "--file is required"},
		"solve with no such file": {[]string{"solve", "-f", "nowhere.yaml"}, "nowhere.yaml"},
		"solve in XML":            {[]string{"solve", "-f", raw, "-o", "xml"}, `"xml"`},
		"solve with an argument":  {[]string{"solve", raw}, "unknown command"},
		"simulate unknown policy": {[]string{"simulate", "-f", raw, "--policy", "Fast"}, `"Fast"`},
		"simulate unknown order":  {[]string{"simulate", "-f", raw, "--order", "SASA"}, `"SASA"`},
		"simulate unknown format": {[]string{"simulate", "-f", raw, "-o", "gif"}, `"gif"`},
		"simulate negative r1":    {[]string{"simulate", "-f", raw, "--r1", "-1"}, "--r1 is -1"},
		"simulate huge r2":        {[]string{"simulate", "-f", raw, "--r2", "1000"}, "--r2 is 1000"},
		"PPPipe with segments":    {[]string{"simulate", "-f", raw, "--policy", "PPPipe", "--r2", "2"}, "r2 is 2"},
		"PPPipe with AASS":        {[]string{"simulate", "-f", raw, "--policy", "PPPipe", "--order", "AASS"}, "--order is AASS"},
		"too many tasks":          {[]string{"simulate", "-f", raw, "--r1", "1000", "--r2", "256"}, "lower r1 or r2"},
		"sweep without --over":    {[]string{"sweep", "-f", raw}, "--over is required"},
		"sweep without a file":    {[]string{"sweep", "--over", "layers=1..2"}, "--file is required"},
		"sweep without values":    {[]string{"sweep", "-f", raw, "--over", "layers"}, "KEY=VALUES"},
		"sweep range backwards":   {[]string{"sweep", "-f", raw, "--over", "layers=2..1"}, "the first not larger"},
		"sweep range of text":     {[]string{"sweep", "-f", raw, "--over", "layers=a..b"}, "two integers"},
		"sweep empty key part":    {[]string{"sweep", "-f", raw, "--over", "limits..x=1"}, "empty part"},
		"sweep key twice":         {[]string{"sweep", "-f", raw, "--over", "layers=1", "--over", "layers=2"}, "given twice"},
		"sweep unknown key":       {[]string{"sweep", "-f", raw, "--over", "layrs=1..3"}, `unknown field "layrs"`},
		"sweep below a number":    {[]string{"sweep", "-f", raw, "--over", "layers.x=1..3"}, "layers is not an object"},
		"sweep too large":         {[]string{"sweep", "-f", raw, "--over", "layers=1..1000", "--over", "sequenceTokens=1..1000"}, "combinations"},
		"sweep huge range":        {[]string{"sweep", "-f", raw, "--over", "layers=1..2000000000"}, "at most"},
		"sweep in XML":            {[]string{"sweep", "-f", raw, "--over", "layers=1", "-o", "xml"}, `"xml"`},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := findep(t, tc.args...)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if code := exitCode(err); code != exitUsage && name != "solve with an argument" || out != "" {
				t.Errorf("exit code %d and output %q", code, out)
			}
		})
	}
}

func simulateJSON(t *testing.T, args ...string) simulationJSON {
	t.Helper()
	out, err := findep(t, append([]string{"simulate", "-f"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	var got simulationJSON
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	return got
}

// TestSimulateMeetsThePrediction: the simulated end is the closed form's.
func TestSimulateMeetsThePrediction(t *testing.T) {
	raw := filepath.Join(problems, "raw.yaml")
	for name, tc := range map[string]struct {
		args []string
		plan string
	}{
		"best FinDEP":     {nil, "FinDEP m_a=1 r1=2 r2=2 AASS"},
		"best PPPipe":     {[]string{"--policy", "PPPipe"}, "PPPipe m_a=1 r1=2 r2=1 ASAS"},
		"best Sequential": {[]string{"--policy", "Sequential"}, "Sequential m_a=2 r1=1 r2=1 ASAS"},
		"fixed":           {[]string{"--micro-batch-size", "3", "--r1", "4", "--r2", "5", "--order", "AASS"}, "FinDEP m_a=3 r1=4 r2=5 AASS"},
		"only r2 fixed":   {[]string{"--r2", "7"}, "FinDEP m_a=1 r1=2 r2=7 AASS"},
		"order fixed":     {[]string{"--order", "ASAS", "--r2", "2"}, "FinDEP m_a=1 r1=2 r2=2 ASAS"},
		"chunks":          {[]string{"--chunks", "3"}, "FinDEP m_a=1 r1=2 r2=2 AASS chunks=3"},
	} {
		t.Run(name, func(t *testing.T) {
			got := simulateJSON(t, append([]string{raw}, tc.args...)...)
			if got.Plan.String() != tc.plan {
				t.Errorf("plan is %s, want %s", got.Plan, tc.plan)
			}
			if math.Abs(got.Simulated-got.Makespan) > 1e-9*got.Makespan {
				t.Errorf("simulated %g ms, predicted %g", got.Simulated, got.Makespan)
			}
			end, busy := 0.0, map[string]float64{}
			for _, task := range got.Tasks {
				end = max(end, task.End)
				busy[task.Resource] += task.End - task.Start
			}
			if end != got.Simulated || len(got.Resources) != 4 {
				t.Errorf("tasks end at %g of %g; resources %v", end, got.Simulated, got.Resources)
			}
			for name, r := range got.Resources {
				if math.Abs(r.Busy-busy[name]) > 1e-6 || math.Abs(r.Busy+r.Idle-got.Simulated) > 1e-6 {
					t.Errorf("%s: %+v, tasks take %g", name, r, busy[name])
				}
			}
		})
	}
}

func TestSimulateRefusesAPlanSmallerThanTheBatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(path, []byte(strings.Replace(rawText, "limits:", "batch: 2\nlimits:", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := findep(t, "simulate", "-f", path, "--micro-batch-size", "1", "--r1", "1", "--r2", "1")
	if codeOf(err) != exitUsage || !strings.Contains(err.Error(), "the batch is 2") {
		t.Errorf("got %v", err)
	}
}

func TestSimulateOnlySomeLayers(t *testing.T) {
	got := simulateJSON(t, filepath.Join(problems, "deepseek-v2.yaml"), "--layers", "3")
	for _, task := range got.Tasks {
		if task.Layer > 2 {
			t.Fatalf("layer %d is there", task.Layer)
		}
	}
	if !(got.Simulated < got.Makespan/2) {
		t.Errorf("3 of 59 layers take %g of %g ms", got.Simulated, got.Makespan)
	}
}

func TestSimulateTrace(t *testing.T) {
	out, err := findep(t, "simulate", "-f", filepath.Join(problems, "raw.yaml"), "-o", "trace")
	if err != nil {
		t.Fatal(err)
	}
	var trace struct {
		TraceEvents []struct {
			Name     string  `json:"name"`
			Phase    string  `json:"ph"`
			Start    float64 `json:"ts"`
			Duration float64 `json:"dur"`
		} `json:"traceEvents"`
	}
	if err := json.Unmarshal([]byte(out), &trace); err != nil {
		t.Fatal(err)
	}
	end, tasks := 0.0, 0
	for _, e := range trace.TraceEvents {
		if e.Phase == "X" {
			tasks++
			end = max(end, e.Start+e.Duration)
		}
	}
	want := simulateJSON(t, filepath.Join(problems, "raw.yaml"))
	if tasks != len(want.Tasks) || math.Abs(end-1e3*want.Simulated) > 1e-3 {
		t.Errorf("%d tasks until %g us, want %d until %g ms", tasks, end, len(want.Tasks), want.Simulated)
	}
}

func TestSimulatePageShowsAllPolicies(t *testing.T) {
	out, err := findep(t, "simulate", "-f", filepath.Join(problems, "raw.yaml"), "--policy", "PPPipe", "-o", "html")
	if err != nil {
		t.Fatal(err)
	}
	last := 0
	for _, want := range []string{"<h2>PPPipe m_a=1 r1=2 r2=1 ASAS</h2>", "<h2>FinDEP m_a=1 r1=2 r2=2 AASS</h2>", "<h2>Sequential m_a=2 r1=1 r2=1 ASAS</h2>"} {
		at := strings.Index(out, want)
		if at < last {
			t.Errorf("%q is at %d, after %d expected", want, at, last)
		}
		last = at
	}
}

func TestSweepCSV(t *testing.T) {
	out, err := findep(t, "sweep", "-f", filepath.Join(problems, "deepseek-v2.yaml"),
		"--over", "gpus.expert=4..6", "--over", "workload.sequenceTokens=1024,2048,8192")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 10 {
		t.Fatalf("%d rows:\n%s", len(rows), out)
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	for i, want := range [][4]string{
		{"4", "1024", "false", "MemoryExceeded"}, {"4", "2048", "false", "MemoryExceeded"}, {"4", "8192", "false", "invalid: workload.contextTokens"},
		{"5", "1024", "true", ""}, {"5", "2048", "true", ""}, {"5", "8192", "false", "invalid: workload.contextTokens"},
		{"6", "1024", "true", ""}, {"6", "2048", "true", ""}, {"6", "8192", "false", "invalid: workload.contextTokens"},
	} {
		row := rows[i+1]
		if row[0] != want[0] || row[1] != want[1] || row[column["feasible"]] != want[2] || !strings.HasPrefix(row[column["reason"]], want[3]) {
			t.Errorf("row %d is %v, want %v", i, row, want)
		}
		if (row[column["gainOverPPPipe"]] != "") != (want[2] == "true") {
			t.Errorf("row %d: gain %q", i, row[column["gainOverPPPipe"]])
		}
	}
}

// TestSweepEqualsSolve: a point of a sweep is what solve says about the edited
// file.
func TestSweepEqualsSolve(t *testing.T) {
	out, err := findep(t, "sweep", "-f", filepath.Join(problems, "raw.yaml"), "--over", "limits.samplesInFlight=1,4", "--over", "stages.a2e.beta=0.007,0.02", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var rows []struct {
		Over            map[string]float64 `json:"over"`
		TokensPerSecond float64            `json:"tokensPerSecond"`
	}
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		t.Fatal(err)
	}
	j, err := parse(rawText)
	if err != nil || len(rows) != 4 {
		t.Fatalf("%v, %d rows", err, len(rows))
	}
	for i, row := range rows {
		p := *j.raw
		p.Limits.SamplesInFlight, p.Stages.A2E.Beta = []int{1, 1, 4, 4}[i], []float64{0.007, 0.02, 0.007, 0.02}[i]
		want, err := solver.Solve(&p, plan.FinDEP)
		if err != nil {
			t.Fatal(err)
		}
		if row.Over["limits.samplesInFlight"] != float64(p.Limits.SamplesInFlight) || math.Abs(row.TokensPerSecond-want.TokensPerSecond) > 1e-6 {
			t.Errorf("row %d is %+v, want %g tokens/s", i, row, want.TokensPerSecond)
		}
	}
}

func TestSweepPage(t *testing.T) {
	out, err := findep(t, "sweep", "-f", filepath.Join(problems, "deepseek-v2.yaml"), "--over", "profile.name=h20,h200,a10", "--over", "gpus.attention=2,3", "-o", "html")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Throughput", "Gain over PPPipe", ">h200</text>", "<td>MemoryExceeded", "FinDEP attention=2"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if strings.Contains(out, "NaN") {
		t.Error("a missing value is drawn")
	}
}

func TestProgressBar(t *testing.T) {
	var out bytes.Buffer
	b := &progressBar{out: &out, total: 1000}
	for range 1000 {
		b.step()
	}
	b.end()
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\r")[1:]
	if len(lines) != progressWidth || lines[len(lines)-1] != "["+strings.Repeat("#", progressWidth)+"] 1000/1000" || !strings.HasPrefix(lines[0], "[#...") {
		t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
}

func TestReadFromStandardInput(t *testing.T) {
	root := newRoot()
	var out bytes.Buffer
	root.SetIn(strings.NewReader(rawText))
	root.SetOut(&out)
	root.SetArgs([]string{"solve", "-f", "-", "-o", "json"})
	if err := root.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), `"r1": 2`) {
		t.Errorf("%v: %s", err, out.String())
	}
}

// brokenWriter fails like a full disk.
type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestOutputErrorsAreReported(t *testing.T) {
	raw := filepath.Join(problems, "raw.yaml")
	for _, args := range [][]string{
		{"solve", "-f", raw}, {"solve", "-f", raw, "-o", "json"}, {"solve", "-f", raw, "-o", "yaml"},
		{"simulate", "-f", raw}, {"simulate", "-f", raw, "-o", "trace"}, {"simulate", "-f", raw, "-o", "html"},
		{"sweep", "-f", raw, "--over", "layers=1"}, {"sweep", "-f", raw, "--over", "layers=1", "-o", "json"}, {"sweep", "-f", raw, "--over", "layers=1", "-o", "html"},
	} {
		root := newRoot()
		root.SetArgs(args)
		root.SetOut(brokenWriter{})
		root.SetErr(&bytes.Buffer{})
		if err := root.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("%v: %v", args, err)
		}
	}
}
