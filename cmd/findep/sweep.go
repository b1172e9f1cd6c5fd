// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/report"
	"github.com/findep/findep-operator/runtime/solver"
)

// Bounds of a sweep.
const (
	maxSweepPoints = 100_000
	maxSweepDepth  = 16
)

func newSweep() *cobra.Command {
	var file, output string
	var over []string
	cmd := &cobra.Command{
		Use:   "sweep -f FILE --over KEY=VALUES [--over KEY=VALUES ...]",
		Short: "Solve a problem for every combination of values and compare with the baselines",
		Long: `KEY is the path of a field in FILE, for example gpus.attention; VALUES is a range of integers,
1..7, or a list, 1024,2048 or h20,h100-sxm. Several --over make all combinations. With gpus.total in
FILE, gpus.attention alone varies the split.

A combination without a plan, or that is no valid problem, is a row that says why; if none is valid
the sweep fails. Progress goes to standard error.

` + problemFormat,
		Example: "  findep sweep -f problem.yaml --over gpus.attention=1..7 --over workload.sequenceTokens=1024,2048,4096,8192 -o csv",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			write, err := sweepWriter(output)
			if err != nil {
				return err
			}
			s, err := newSweepOf(file, cmd.InOrStdin(), over)
			if err != nil {
				return usageError{err}
			}
			if err := s.run(cmd.Context(), cmd.ErrOrStderr()); err != nil {
				return err
			}
			return write(s, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", "", `problem; "-" is standard input`)
	f.StringArrayVar(&over, "over", nil, "field to vary and its values, KEY=1..7 or KEY=A,B,C; may be repeated")
	f.StringVarP(&output, "output", "o", "csv", "csv, json or html")
	return cmd
}

func sweepWriter(format string) (func(*sweep, io.Writer) error, error) {
	switch format {
	case "csv":
		return (*sweep).csv, nil
	case "json":
		return (*sweep).json, nil
	case "html":
		return (*sweep).html, nil
	}
	return nil, usageError{fmt.Errorf("--output is %q; use csv, json or html", format)}
}

// dimension is one --over.
type dimension struct {
	key    string
	path   []string
	values []any
}

// sweep is the product of its dimensions.
type sweep struct {
	file       string
	dir        string
	data       []byte
	dimensions []dimension
	points     []point
}

// point is one combination with the best plan of each policy.
type point struct {
	values []any
	split  solver.Split
	best   solver.Result
	// others are the baselines at the same split, 0 tokens if they have no plan.
	others map[string]solver.Result
	// invalid says why the combination is no valid problem.
	invalid error
}

func newSweepOf(file string, stdin io.Reader, over []string) (*sweep, error) {
	if file == "" {
		return nil, errMissingFile
	}
	if len(over) == 0 {
		return nil, errors.New("--over is required: a field of the file and its values, for example --over gpus.attention=1..7")
	}
	s := &sweep{file: file}
	n := 1
	for _, text := range over {
		d, err := parseDimension(text)
		if err != nil {
			return nil, err
		}
		for _, other := range s.dimensions {
			if other.key == d.key {
				return nil, fmt.Errorf("--over %s is given twice", d.key)
			}
		}
		if n *= len(d.values); n > maxSweepPoints {
			return nil, fmt.Errorf("--over makes more than %d combinations; give fewer values", maxSweepPoints)
		}
		s.dimensions = append(s.dimensions, d)
	}
	var err error
	s.data, s.dir, err = readProblem(file, stdin)
	return s, err
}

// parseDimension reads KEY=VALUES.
func parseDimension(text string) (dimension, error) {
	key, list, ok := strings.Cut(text, "=")
	d := dimension{key: key, path: strings.Split(key, ".")}
	if !ok || key == "" || list == "" || len(d.path) > maxSweepDepth {
		return d, fmt.Errorf("--over is %q; need KEY=VALUES, for example gpus.attention=1..7", text)
	}
	for _, part := range d.path {
		if part == "" {
			return d, fmt.Errorf("--over %q has an empty part in its key", text)
		}
	}
	var err error
	if first, last, ok := strings.Cut(list, ".."); ok {
		if d.values, err = integers(first, last); err != nil {
			return d, fmt.Errorf("--over %s=%s: %w", key, list, err)
		}
		return d, nil
	}
	for field := range strings.SplitSeq(list, ",") {
		d.values = append(d.values, scalar(strings.TrimSpace(field)))
	}
	return d, nil
}

// integers are all from first to last.
func integers(first, last string) ([]any, error) {
	a, errA := strconv.Atoi(first)
	b, errB := strconv.Atoi(last)
	const most = math.MaxInt32
	if errA != nil || errB != nil || a > b || a < -most || b > most || b-a >= maxSweepPoints {
		return nil, fmt.Errorf("need two integers, the first not larger, and at most %d values", maxSweepPoints)
	}
	var values []any
	for v := a; v <= b; v++ {
		values = append(values, v)
	}
	return values, nil
}

// scalar reads a value as JSON does, and what is not JSON as text.
func scalar(text string) any {
	if n, err := strconv.Atoi(text); err == nil {
		return n
	}
	if f, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(f) && !math.IsInf(f, 0) {
		return f
	}
	switch text {
	case "true", "false":
		return text == "true"
	}
	return text
}

// run solves every combination. The last dimension varies fastest.
func (s *sweep) run(ctx context.Context, progress io.Writer) error {
	total := 1
	for i := range s.dimensions {
		total *= len(s.dimensions[i].values)
	}
	bar := &progressBar{out: progress, total: total}
	defer bar.end()
	valid := false
	for i := range total {
		p := s.solve(ctx, s.values(i))
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("sweep: %w", err)
		}
		valid = valid || p.invalid == nil
		s.points = append(s.points, p)
		bar.step()
	}
	if !valid {
		first := &s.points[0]
		return usageError{fmt.Errorf("%s with %s: %w", s.file, s.label(first.values), first.invalid)}
	}
	return nil
}

// values is combination i.
func (s *sweep) values(i int) []any {
	values := make([]any, len(s.dimensions))
	for d := len(s.dimensions) - 1; d >= 0; d-- {
		list := s.dimensions[d].values
		values[d] = list[i%len(list)]
		i /= len(list)
	}
	return values
}

// solve solves one combination.
func (s *sweep) solve(ctx context.Context, values []any) point {
	p := point{values: values, others: map[string]solver.Result{}}
	p.invalid = s.fill(ctx, &p)
	return p
}

// fill solves for every policy.
func (s *sweep) fill(ctx context.Context, p *point) error {
	data, err := s.with(p.values)
	if err != nil {
		return err
	}
	j, err := parseJob(data, s.dir)
	if err != nil {
		return err
	}
	best, err := j.solve(ctx, plan.FinDEP, time.Now)
	if err != nil {
		return err
	}
	p.split, p.best = best.choice.Split, best.choice.Result
	if p.best.Infeasible != nil {
		return nil
	}
	var w solver.Solver
	for name, policy := range baselines {
		if p.others[name], err = w.Solve(ctx, &best.choice.Problem, policy); err != nil {
			return err
		}
	}
	return nil
}

// with is the file with the fields of a combination replaced.
func (s *sweep) with(values []any) ([]byte, error) {
	var tree map[string]any
	if err := decodeStrict("", s.data, &tree); err != nil {
		return nil, err
	}
	for i, d := range s.dimensions {
		at := tree
		for depth, part := range d.path[:len(d.path)-1] {
			next, ok := at[part]
			if !ok || next == nil {
				next = map[string]any{}
				at[part] = next
			}
			if at, ok = next.(map[string]any); !ok {
				return nil, fmt.Errorf("--over %s: %s is not an object in the file", d.key, strings.Join(d.path[:depth+1], "."))
			}
		}
		at[d.path[len(d.path)-1]] = values[i]
	}
	return json.Marshal(tree)
}

func (s *sweep) label(values []any) string {
	parts := make([]string, len(values))
	for i, v := range values {
		parts[i] = fmt.Sprintf("%s=%v", s.dimensions[i].key, v)
	}
	return strings.Join(parts, " ")
}

// sweepColumns follow the varied fields.
var sweepColumns = []string{
	"feasible", "attention", "expert", "microBatchSize", "r1", "r2", "order", "chunks", "makespanMilliseconds", "layerPeriodMilliseconds",
	"tokensPerSecond", "regime", "pppipeTokensPerSecond", "sequentialTokensPerSecond", "gainOverPPPipe", "gainOverSequential", "reason",
}

// row are the values of sweepColumns; nil where there is none.
func (p *point) row() []any {
	r := &p.best
	var expert any
	if p.split.Expert > 0 {
		expert = p.split.Expert
	}
	none := make([]any, len(sweepColumns))
	none[0] = false
	switch i := r.Infeasible; {
	case p.invalid != nil:
		none[len(none)-1] = "invalid: " + p.invalid.Error()
		return none
	case i != nil:
		none[1], none[2], none[len(none)-1] = p.split.Attention, expert, string(i.Reason)+": "+i.String()
		return none
	}
	tokens, gain := map[string]any{}, map[string]any{}
	for name, b := range p.others {
		if b.Infeasible == nil {
			tokens[name], gain[name] = b.TokensPerSecond, r.TokensPerSecond/b.TokensPerSecond
		}
	}
	return []any{
		true, p.split.Attention, expert, r.MicroBatchSize, r.R1, r.R2, string(r.Order), r.Chunks, r.MakespanMilliseconds, r.LayerPeriodMilliseconds,
		r.TokensPerSecond, string(r.Regime), tokens["pppipe"], tokens["sequential"], gain["pppipe"], gain["sequential"], nil,
	}
}

func (s *sweep) columns() []string {
	var names []string
	for _, d := range s.dimensions {
		names = append(names, d.key)
	}
	return append(names, sweepColumns...)
}

// cells are a point's row as text.
func (p *point) cells() []string {
	var cells []string
	for _, v := range append(append([]any(nil), p.values...), p.row()...) {
		switch v := v.(type) {
		case nil:
			cells = append(cells, "")
		case float64:
			cells = append(cells, strconv.FormatFloat(v, 'g', 6, 64))
		default:
			cells = append(cells, fmt.Sprint(v))
		}
	}
	return cells
}

func (s *sweep) csv(out io.Writer) error {
	w := csv.NewWriter(out)
	_ = w.Write(s.columns())
	for i := range s.points {
		_ = w.Write(s.points[i].cells())
	}
	w.Flush()
	return w.Error()
}

func (s *sweep) json(out io.Writer) error {
	rows := make([]map[string]any, len(s.points))
	for i := range s.points {
		p := &s.points[i]
		over, row := map[string]any{}, map[string]any{}
		for d, v := range p.values {
			over[s.dimensions[d].key] = v
		}
		row["over"] = over
		for c, v := range p.row() {
			if v != nil {
				row[sweepColumns[c]] = v
			}
		}
		rows[i] = row
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(rows)
}

func (s *sweep) html(out io.Writer) error {
	t := &report.Table{
		Title:    "Sweep of " + s.file,
		Subtitle: fmt.Sprintf("%d combinations; the baselines are the best plans of PPPipe and Sequential at the same split within the same limits.", len(s.points)),
		Columns:  s.columns(),
	}
	for i := range s.points {
		t.Rows = append(t.Rows, s.points[i].cells())
	}
	t.Plots = []report.Plot{
		s.plot("Throughput", "tokens/s", []string{"FinDEP", "PPPipe"}, func(p *point) []float64 {
			return []float64{p.best.TokensPerSecond, tokensOf(p.others["pppipe"])}
		}),
		s.plot("Gain over PPPipe", "times", []string{""}, func(p *point) []float64 {
			return []float64{p.best.TokensPerSecond / tokensOf(p.others["pppipe"])}
		}),
		s.plot("Time of one forward pass", "ms", []string{"FinDEP", "PPPipe"}, func(p *point) []float64 {
			return []float64{p.best.MakespanMilliseconds, makespanOf(p.others["pppipe"])}
		}),
	}
	return report.WriteTable(out, t)
}

func tokensOf(r solver.Result) float64 {
	if r.Infeasible != nil || r.TokensPerSecond == 0 {
		return math.NaN()
	}
	return r.TokensPerSecond
}

func makespanOf(r solver.Result) float64 {
	if r.Infeasible != nil || r.MakespanMilliseconds == 0 {
		return math.NaN()
	}
	return r.MakespanMilliseconds
}

// plot draws values over the dimension with the most values, one line per
// combination of the others and per name.
func (s *sweep) plot(title, unit string, names []string, y func(*point) []float64) report.Plot {
	axis := 0
	for i := range s.dimensions {
		if len(s.dimensions[i].values) > len(s.dimensions[axis].values) {
			axis = i
		}
	}
	p := report.Plot{Title: title, XLabel: s.dimensions[axis].key, YLabel: unit}
	position := s.positions(axis, &p)
	lines := map[string]int{}
	for i := range s.points {
		at := &s.points[i]
		for k, v := range y(at) {
			name := strings.TrimSpace(names[k] + " " + s.others(at.values, axis))
			line, ok := lines[name]
			if !ok {
				line = len(p.Series)
				lines[name] = line
				p.Series = append(p.Series, report.Series{Name: name, Group: line / len(names), Baseline: k > 0})
			}
			if at.invalid != nil || at.best.Infeasible != nil {
				v = math.NaN()
			}
			p.Series[line].X = append(p.Series[line].X, position[fmt.Sprint(at.values[axis])])
			p.Series[line].Y = append(p.Series[line].Y, v)
		}
	}
	return p
}

// positions maps the axis' values to x: numbers in increasing order to
// themselves, others to their index.
func (s *sweep) positions(axis int, p *report.Plot) map[string]float64 {
	position, last := map[string]float64{}, math.Inf(-1)
	values := s.dimensions[axis].values
	for _, v := range values {
		x, ok := numeric(v)
		if !ok || x <= last {
			position = map[string]float64{}
			for i, v := range values {
				position[fmt.Sprint(v)] = float64(i)
				p.Categories = append(p.Categories, fmt.Sprint(v))
			}
			return position
		}
		position[fmt.Sprint(v)], last = x, x
	}
	return position
}

func numeric(v any) (float64, bool) {
	switch v := v.(type) {
	case int:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// others labels the values of all dimensions but one, by the last parts of
// their keys.
func (s *sweep) others(values []any, axis int) string {
	var parts []string
	for i, d := range s.dimensions {
		if i != axis {
			parts = append(parts, fmt.Sprintf("%s=%v", d.path[len(d.path)-1], values[i]))
		}
	}
	return strings.Join(parts, " ")
}
