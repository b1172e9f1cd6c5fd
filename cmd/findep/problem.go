// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	yamlv2 "go.yaml.in/yaml/v2"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

// maxProblemBytes bounds a problem file; a file with a thousand different
// layers has a tenth of it.
const maxProblemBytes = 4 << 20

// problemFormat is the help on FILE, shared by the commands that read one.
const problemFormat = `FILE is YAML or JSON ("-" is standard input) in one of two forms. The model form derives
the stage times from a model and GPU profiles:

  model: {name: deepseek-ai/DeepSeek-V2}        # or config: path or contents of a config.json
  profile: {name: h20, link: rdma-400g}         # or inline: {...}, or file: a GPUProfile, or {attention: ..., expert: ...}
  gpus: {attention: 3, expert: 5}               # or {total: 8} to choose the split
  workload: {phase: Prefill, sequenceTokens: 2048, contextTokens: 4096, batch: 12}
  limits: {samplesInFlight: 4, maxMicroBatch: 2, makespanMilliseconds: 800}

The batch is of the whole instance there. The raw form gives the stage times, attention and shared
experts in ms and ms per sample, the others in ms and ms per token per expert of a segment; its
batch and limits.samplesInFlight are per attention GPU:

  stages:
    attention: {alpha: 0.9, beta: 2.6, quadratic: 0}
    shared: {alpha: 0.3, beta: 0.5}
    expert: {alpha: 0.4, beta: 0.011}
    a2e: {alpha: 0.1, beta: 0.007}
    e2a: {alpha: 0.1, beta: 0.007}
  layers: 60
  tokensPerExpertPerSample: 230.4
  attentionGPUs: 3
  sequenceTokens: 2048
  batch: 4
  limits: {samplesInFlight: 4, maxMicroBatch: 4, maxSegments: 64, maxChunks: 1, makespanMilliseconds: 800}`

// job is a checked problem in either form.
type job struct {
	// raw is the raw form; nil in the model form.
	raw *solver.Problem
	// instance is the model form, with either split or total set.
	instance solver.Instance
	split    solver.Split
	total    int
}

// modelForm is the file's model form.
type modelForm struct {
	Model    modelInput      `json:"model"`
	Profile  json.RawMessage `json:"profile"`
	GPUs     gpusInput       `json:"gpus"`
	Workload solver.Workload `json:"workload"`
	Options  optionsInput    `json:"options"`
	Limits   solver.Limits   `json:"limits"`
}

type modelInput struct {
	Name string `json:"name"`
	// Config is the contents of a config.json or the path to one.
	Config json.RawMessage `json:"config"`
}

type gpusInput struct {
	Attention *int `json:"attention"`
	Expert    *int `json:"expert"`
	Total     *int `json:"total"`
}

// optionsInput is solver.Options without limits, which have a place of their
// own.
type optionsInput struct {
	DType               model.DType `json:"dtype"`
	ReplicatedTransfers bool        `json:"replicatedTransfers"`
	SegmentBuffers      int         `json:"segmentBuffers"`
	Order               plan.Order  `json:"order"`
	ExpertImbalance     float64     `json:"expertImbalance"`
	ExpertTileTokens    int         `json:"expertTileTokens"`
	HalfDuplex          bool        `json:"halfDuplex"`
	ExactRemainder      bool        `json:"exactRemainder"`
}

// readProblem reads FILE as JSON and returns the directory that paths in it are
// relative to.
func readProblem(path string, stdin io.Reader) (data []byte, dir string, err error) {
	in, dir := stdin, "."
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, "", err
		}
		defer func() { _ = f.Close() }()
		in, dir = f, filepath.Dir(path)
	}
	text, err := io.ReadAll(io.LimitReader(in, maxProblemBytes+1))
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", path, err)
	}
	if data, err = toJSON(text); err != nil {
		return nil, "", fmt.Errorf("%s: %w", path, err)
	}
	return data, dir, nil
}

// toJSON converts YAML, of which JSON is a part, and refuses what JSON cannot
// hold.
func toJSON(text []byte) ([]byte, error) {
	if len(text) > maxProblemBytes {
		return nil, fmt.Errorf("more than %d bytes", maxProblemBytes)
	}
	data, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		var tree any
		if yamlv2.Unmarshal(text, &tree) == nil {
			if path, value := notFinite("", tree); path != "" {
				return nil, fmt.Errorf("%s is %g: must be finite", path, value)
			}
		}
		return nil, err
	}
	if secondDocument(text) {
		return nil, errors.New("more than one YAML document; need one problem")
	}
	return data, nil
}

// secondDocument tells whether a document separator follows other content.
func secondDocument(text []byte) bool {
	content := false
	for line := range bytes.Lines(text) {
		line = bytes.TrimRight(line, " \t\r\n")
		if bytes.Equal(line, []byte("---")) {
			if content {
				return true
			}
			continue
		}
		content = content || len(line) > 0 && line[0] != '#' && line[0] != '%'
	}
	return false
}

// notFinite finds NaN or infinity in a YAML tree, in the order of the paths.
func notFinite(path string, tree any) (where string, value float64) {
	switch t := tree.(type) {
	case float64:
		if math.IsNaN(t) || math.IsInf(t, 0) {
			return path, t
		}
	case []any:
		for i, v := range t {
			if where, value = notFinite(fmt.Sprintf("%s[%d]", path, i), v); where != "" {
				return where, value
			}
		}
	case map[any]any:
		keys := make([]string, 0, len(t))
		byName := make(map[string]any, len(t))
		for k, v := range t {
			name := fmt.Sprint(k)
			keys, byName[name] = append(keys, name), v
		}
		sort.Strings(keys)
		for _, k := range keys {
			if where, value = notFinite(strings.TrimPrefix(path+"."+k, "."), byName[k]); where != "" {
				return where, value
			}
		}
	}
	return "", 0
}

// parseJob reads a problem from JSON. The error names the field.
func parseJob(data []byte, dir string) (*job, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(data, &keys); err != nil {
		return nil, errors.New("need an object with the keys of the model form or of the raw form")
	}
	_, hasModel := keys["model"]
	_, hasStages := keys["stages"]
	switch {
	case hasModel && hasStages:
		return nil, errors.New("stages contradicts model: use either the model form or the raw form")
	case hasModel:
		return parseModelForm(data, dir)
	case hasStages:
		var p solver.Problem
		if err := decodeStrict("", data, &p); err != nil {
			return nil, err
		}
		return &job{raw: &p}, checkProblem(&p)
	}
	return nil, errors.New("neither model nor stages is given: need the model form or the raw form")
}

// checkProblem refuses what no solver could use, and limits that contradict
// each other.
func checkProblem(p *solver.Problem) error {
	if err := p.Validate(); err != nil {
		return err
	}
	if l := p.Limits.SamplesInFlight; l > 0 && p.Batch > l {
		return &solver.FieldError{Field: "limits.samplesInFlight", Value: fmt.Sprint(l),
			Problem: fmt.Sprintf("contradicts the batch, %d per attention GPU", p.Batch)}
	}
	if p.Samples > 0 && (p.Batch == 0 || p.Samples > p.Batch*p.AttentionGPUs) {
		return &solver.FieldError{Field: "samples", Value: fmt.Sprint(p.Samples),
			Problem: fmt.Sprintf("contradicts the batch, %d on each of %d attention GPUs", p.Batch, p.AttentionGPUs)}
	}
	return nil
}

func parseModelForm(data []byte, dir string) (*job, error) {
	var f modelForm
	if err := decodeStrict("", data, &f); err != nil {
		return nil, err
	}
	j := &job{}
	var err error
	if j.instance.Shape, err = f.Model.shape(dir); err != nil {
		return nil, err
	}
	if j.instance.Profiles, err = parseProfiles(f.Profile, dir); err != nil {
		return nil, err
	}
	if j.split, j.total, err = f.GPUs.split(); err != nil {
		return nil, err
	}
	if w := &f.Workload; w.ContextTokens > 0 && w.Phase == solver.Prefill && w.ContextTokens < w.PrefixTokens+w.SequenceTokens {
		return nil, &solver.FieldError{Field: "workload.contextTokens", Value: fmt.Sprint(w.ContextTokens),
			Problem: fmt.Sprintf("contradicts workload.sequenceTokens, %d, after %d of a prefix", w.SequenceTokens, w.PrefixTokens)}
	}
	j.instance.Workload = f.Workload
	j.instance.Options = f.Options.with(f.Limits, f.Workload.Phase)
	return j, j.check()
}

// check derives the stages once, so that errors appear before anything runs.
func (j *job) check() error {
	split := j.split
	if j.total > 0 {
		experts := j.instance.Shape.MoE.Experts
		split = solver.Split{Attention: max(1, j.total-experts)}
		split.Expert = j.total - split.Attention
	}
	p, err := solver.FromModel(&j.instance, split)
	if err != nil {
		return renamed(err)
	}
	if j.total > 0 {
		// With a free split some splits may hold the batch and others not.
		return nil
	}
	return checkProblem(&p)
}

// renamed turns the solver's names of fields into the file's.
func renamed(err error) error {
	var f *solver.FieldError
	if errors.As(err, &f) && f.Field == "split" {
		return &solver.FieldError{Field: "gpus", Value: f.Value, Problem: f.Problem}
	}
	return err
}

func (o *optionsInput) with(l solver.Limits, phase solver.Phase) solver.Options {
	if l.MaxChunks == 0 && phase == solver.Prefill {
		l = l.WithChunks()
	}
	return solver.Options{
		DType: o.DType, ReplicatedTransfers: o.ReplicatedTransfers, SegmentBuffers: o.SegmentBuffers, Order: o.Order,
		ExpertImbalance: o.ExpertImbalance, ExpertTileTokens: o.ExpertTileTokens,
		HalfDuplex: o.HalfDuplex, ExactRemainder: o.ExactRemainder, Limits: l,
	}
}

// shape reads model.name or model.config.
func (m *modelInput) shape(dir string) (*model.Shape, error) {
	switch {
	case m.Name != "" && len(m.Config) > 0:
		return nil, errors.New("model.config contradicts model.name: give one of them")
	case m.Name != "":
		s, err := model.ByName(m.Name)
		if err != nil {
			return nil, fmt.Errorf("model.name: %w", err)
		}
		return s, nil
	case len(m.Config) == 0:
		return nil, fmt.Errorf("model.name is missing: name a built-in model (%s) or give model.config", strings.Join(model.Names(), ", "))
	}
	config := []byte(m.Config)
	var path string
	if json.Unmarshal(config, &path) == nil {
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		var err error
		if config, err = readBounded(path); err != nil {
			return nil, fmt.Errorf("model.config: %w", err)
		}
	}
	s, err := model.Parse(config)
	if err != nil {
		return nil, fmt.Errorf("model.config: %w", err)
	}
	return s, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxProblemBytes+1))
	if err == nil && len(b) > maxProblemBytes {
		err = fmt.Errorf("%s: more than %d bytes", path, maxProblemBytes)
	}
	return b, err
}

// split is the fixed split, or the total of a free one.
func (g *gpusInput) split() (solver.Split, int, error) {
	var values [3]int
	for i, f := range []struct {
		name string
		p    *int
	}{{"gpus.attention", g.Attention}, {"gpus.expert", g.Expert}, {"gpus.total", g.Total}} {
		if f.p == nil {
			continue
		}
		if values[i] = *f.p; values[i] < 1 || values[i] > plan.MaxRanks {
			return solver.Split{}, 0, &solver.FieldError{Field: f.name, Value: fmt.Sprint(*f.p), Problem: fmt.Sprintf("must be between 1 and %d", plan.MaxRanks)}
		}
	}
	s, total := solver.Split{Attention: values[0], Expert: values[1]}, values[2]
	if total > 0 {
		return splitOf(s, total)
	}
	for i, name := range []string{"gpus.attention", "gpus.expert"} {
		if values[i] == 0 {
			return s, 0, fmt.Errorf("%s is missing: give gpus.attention and gpus.expert, or gpus.total", name)
		}
	}
	return s, 0, nil
}

// splitOf completes a split of a given total of which nothing, one group or
// both are given.
func splitOf(s solver.Split, total int) (solver.Split, int, error) {
	switch {
	case total < 2:
		return s, 0, &solver.FieldError{Field: "gpus.total", Value: fmt.Sprint(total), Problem: "need at least 2, one per group"}
	case s.Total() == 0:
		return s, total, nil
	case s.Attention == 0:
		s.Attention = total - s.Expert
	case s.Expert == 0:
		s.Expert = total - s.Attention
	}
	if s.Attention < 1 || s.Expert < 1 || s.Total() != total {
		return s, 0, &solver.FieldError{Field: "gpus.total", Value: fmt.Sprint(total), Problem: "contradicts gpus.attention or gpus.expert"}
	}
	return s, 0, nil
}

// decodeStrict decodes JSON, case-sensitively and without unknown or repeated
// fields. field is the place of the data in the file.
func decodeStrict(field string, data []byte, v any) error {
	strict, err := kjson.UnmarshalStrict(data, v)
	if err == nil && len(strict) > 0 {
		err = strict[0]
	}
	if err == nil {
		return nil
	}
	text := strings.TrimPrefix(err.Error(), "json: ")
	if m := wrongType.FindStringSubmatch(text); m != nil {
		text = fmt.Sprintf("%s is a %s: need a value of type %s", m[2], m[1], m[3])
	}
	if field != "" {
		text = field + ": " + text
	}
	return errors.New(text)
}

// wrongType is how encoding/json says that a value has the wrong type.
var wrongType = regexp.MustCompile(`^cannot unmarshal (.+) into Go struct field [^.]*\.(\S+) of type (\S+)$`)
