// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/native"
	"github.com/findep/findep-operator/runtime/calibrate"
	"github.com/findep/findep-operator/runtime/devices"
	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/profile"
)

// driverPatience bounds the wait for the driver to name a GPU.
const driverPatience = 10 * time.Second

// defaultGPUBudget is the time for all series where none is given.
const defaultGPUBudget = 2 * time.Minute

// calibrateOptions are the flags of `findep calibrate`.
type calibrateOptions struct {
	backend                  string
	device, threads          int
	model, shape, catalogued string
	dtype                    string
	trials, warmUp           int
	maxTokens                int
	pointMilliseconds        int
	budget                   time.Duration
	withCommunication        bool
	link                     string
	name                     string
	selector                 map[string]string
	output                   string
}

func newCalibrate() *cobra.Command {
	var o calibrateOptions
	cmd := &cobra.Command{
		Use:   "calibrate --model DIR | --shape FILE | --model-name NAME",
		Short: "Measure a device and a link, and write a GPUProfile",
		Long: `Measures matrix products, grouped products of the experts, attention in prefill and in decode,
reading memory, and transfers, all in the sizes of one model's layer; fits time = alpha + beta*work
to each by least squares; and writes a GPUProfile for kubectl apply. Every size runs --warmup times
before it is measured --trials times, and its median counts. The fits are shown on standard error.

A fit with R2 below 0.99 is refused with the size that deviates and the likely cause, and nothing is
written: exit code 4. Calibrate on a machine that does nothing else.`,
		Example: `  findep calibrate --model-name deepseek-ai/DeepSeek-V2-Lite --name this-cpu > profile.yaml
  findep calibrate --backend cuda --model-name deepseek-ai/DeepSeek-V2 --link nvlink-4 | kubectl apply -f -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			write, err := o.validate()
			if err != nil {
				return usageError{err}
			}
			shape, err := o.modelShape()
			if err != nil {
				return usageError{err}
			}
			c, err := o.measure(cmd.Context(), shape, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return write(c, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.backend, "backend", native.CPU, "kernels to measure: cpu, cuda or reference")
	f.IntVar(&o.device, "device", 0, "number of the device")
	f.IntVar(&o.threads, "threads", 1, "host threads of the CPU backend, as many as a rank will have")
	f.StringVar(&o.model, "model", "", "directory with a config.json (the weights are not read)")
	f.StringVar(&o.shape, "shape", "", "config.json")
	f.StringVar(&o.catalogued, "model-name", "", "built-in model: "+strings.Join(model.Names(), ", "))
	f.StringVar(&o.dtype, "dtype", "f32", "type of the weights: f32 (as ranks hold them) or bf16")
	f.IntVar(&o.trials, "trials", 30, "measured runs of each size")
	f.IntVar(&o.warmUp, "warmup", 10, "runs of each size before those")
	f.IntVar(&o.maxTokens, "max-tokens", 8192, "largest number of tokens or rows of a launch")
	f.IntVar(&o.pointMilliseconds, "point-milliseconds", 60, "how long the largest size may take")
	f.DurationVar(&o.budget, "budget", 0, "time for all of it, which bounds the largest sizes (default 2m on a GPU, else none)")
	f.BoolVar(&o.withCommunication, "with-communication", false, "measure again while messages flow over loopback, and say how much slower each kind is")
	f.StringVar(&o.link, "link", linkTCP, "tcp or tcp-plain to measure loopback with or without TLS, or a built-in link to take from its datasheet")
	f.StringVar(&o.name, "name", "", "name of the GPUProfile (default: the device's)")
	f.StringToStringVar(&o.selector, "node-selector", nil, "labels of the nodes that the profile describes (default on a GPU: its product)")
	f.StringVarP(&o.output, "output", "o", "yaml", "yaml, json or table")
	return cmd
}

// validate checks the flags and returns the writer of the output format.
func (o *calibrateOptions) validate() (func(*calibration, io.Writer, io.Writer) error, error) {
	given := 0
	for _, v := range []string{o.model, o.shape, o.catalogued} {
		if v != "" {
			given++
		}
	}
	switch {
	case given != 1:
		return nil, errors.New("give one of --model, --shape and --model-name: its layer is what is measured")
	case o.dtype != "f32" && o.dtype != "bf16":
		return nil, fmt.Errorf("--dtype is %q; use f32 or bf16", o.dtype)
	}
	if err := o.validateTimes(); err != nil {
		return nil, err
	}
	if err := o.validateNames(); err != nil {
		return nil, err
	}
	if err := (&calibrate.Options{Trials: o.trials, WarmUp: o.warmUp}).Validate(); err != nil {
		return nil, fmt.Errorf("--%w", err)
	}
	if err := checkLink(o.link); err != nil {
		return nil, err
	}
	switch o.output {
	case "yaml":
		return (*calibration).yaml, nil
	case "json":
		return (*calibration).json, nil
	case "table":
		return func(c *calibration, out, _ io.Writer) error { return c.table(out) }, nil
	}
	return nil, fmt.Errorf("--output is %q; use yaml, json or table", o.output)
}

// validateTimes checks what bounds the sizes, and sets the budget's default.
func (o *calibrateOptions) validateTimes() error {
	if o.backend == native.CUDA && o.budget == 0 {
		o.budget = defaultGPUBudget
	}
	switch {
	case o.pointMilliseconds < 1 || o.pointMilliseconds > 60_000:
		return fmt.Errorf("--point-milliseconds is %d; use 1 to 60000", o.pointMilliseconds)
	case o.budget != 0 && (o.budget < time.Second || o.budget > time.Hour):
		return fmt.Errorf("--budget is %v; use 1s to 1h", o.budget)
	}
	return nil
}

// validateNames checks what ends up in the metadata of an object.
func (o *calibrateOptions) validateNames() error {
	if o.name != "" {
		if problems := validation.IsDNS1123Subdomain(o.name); len(problems) > 0 {
			return fmt.Errorf("--name is %q: %s", o.name, strings.Join(problems, "; "))
		}
	}
	for k, v := range o.selector {
		if problems := append(validation.IsQualifiedName(k), validation.IsValidLabelValue(v)...); len(problems) > 0 {
			return fmt.Errorf("--node-selector %s=%s: %s", k, v, strings.Join(problems, "; "))
		}
	}
	return nil
}

// modelShape reads the model whose layer is measured.
func (o *calibrateOptions) modelShape() (*model.Shape, error) {
	if o.catalogued != "" {
		return model.ByName(o.catalogued)
	}
	path := o.shape
	if path == "" {
		path = filepath.Join(o.model, "config.json")
	}
	b, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	s, err := model.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// calibration is what was measured, with the object made from it.
type calibration struct {
	lines   []*calibrate.Line
	notes   []string
	profile *profile.Profile
	object  v1alpha1.GPUProfile
}

// measure runs everything. Poor fits are shown before they are refused.
func (o *calibrateOptions) measure(ctx context.Context, shape *model.Shape, progress io.Writer) (*calibration, error) {
	dev, err := backend.Open(o.backend, backend.Options{Index: o.device})
	if err != nil {
		return nil, err
	}
	defer func() { _ = dev.Close() }()
	dtype := backend.F32
	if o.dtype == "bf16" {
		dtype = backend.BF16
	}
	bench, err := calibrate.NewBench(dev, shape, calibrate.ComputeOptions{
		DType: dtype, Threads: o.threads, MaxTokens: o.maxTokens,
		PointTime: o.pointTime(), Now: time.Now,
	})
	if err != nil {
		return nil, usageError{err}
	}
	defer func() { _ = bench.Close() }()
	bar := &roundsBar{out: progress}
	options := calibrate.Options{Trials: o.trials, WarmUp: o.warmUp, Now: time.Now, Progress: bar.show}
	started := time.Now()
	var r calibrate.Result
	poor := calibrate.MeasureCompute(ctx, bench, &r, options)
	bar.end()
	if poor != nil && !isPoorFit(poor) {
		return nil, poor
	}
	p := o.profile(dev, shape, time.Now())
	slower, err := o.measureBeside(ctx, bench, &r, options)
	bar.end()
	if err != nil {
		return nil, err
	}
	link, notes, err := o.measureLinks(ctx, options, p)
	bar.end()
	if err != nil && !isPoorFit(err) {
		return nil, err
	}
	r.Link = link
	poor = errors.Join(poor, err)
	r.Fill(p)
	c := &calibration{lines: r.Lines(), notes: append(slower, notes...), profile: p}
	c.notes = append(c.notes, fmt.Sprintf("measured in %.0f s", time.Since(started).Seconds()))
	if poor != nil {
		_ = c.table(progress)
		return nil, poorFitError{poor}
	}
	p.Source += quality(c.lines)
	if err := p.Validate(); err != nil {
		return nil, fmt.Errorf("the measurements make no usable profile: %w", err)
	}
	c.object = o.object(p)
	return c, nil
}

// poorFitError marks measurements that make no model.
type poorFitError struct{ err error }

func (e poorFitError) Error() string {
	return fmt.Sprintf("no profile is written, because plans made from it would be wrong:\n%v", e.err)
}
func (e poorFitError) Unwrap() error { return e.err }

func isPoorFit(err error) bool {
	var poor *calibrate.PoorFitError
	return errors.As(err, &poor)
}

// measureLinks measures loopback with and without TLS; the one asked for goes
// into the profile, the other is a note. A built-in link is taken as it is.
func (o *calibrateOptions) measureLinks(ctx context.Context, options calibrate.Options, p *profile.Profile) (calibrate.Line, []string, error) {
	if o.link != linkTCP && o.link != linkPlainTCP {
		l, err := profile.Link(o.link)
		if err != nil {
			return calibrate.Line{}, nil, err
		}
		*p = *p.WithLink(l)
		return calibrate.Line{}, []string{fmt.Sprintf("link: %s, from its datasheet; the profile's quality is Datasheet therefore", l.Name)}, nil
	}
	p.Link.Name = "TCP over loopback, TLS"
	if o.link == linkPlainTCP {
		p.Link.Name = "TCP over loopback, plain"
	}
	chosen, err := measureLoopback(ctx, o.link == linkPlainTCP, options)
	if err != nil && !isPoorFit(err) {
		return chosen, nil, err
	}
	other, otherErr := measureLoopback(ctx, o.link != linkPlainTCP, options)
	if otherErr != nil && !isPoorFit(otherErr) {
		return chosen, nil, otherErr
	}
	name := "without TLS"
	if o.link == linkPlainTCP {
		name = "with TLS"
	}
	note := fmt.Sprintf("link %s: %.4g us + %.4g us/MB, R2 %.4f", name, other.Alpha, other.Beta, other.RSquared)
	return chosen, []string{note}, err
}

// profile is everything but the lines.
func (o *calibrateOptions) profile(dev backend.Device, shape *model.Shape, now time.Time) *profile.Profile {
	name := shape.Name
	if name == "" {
		name = o.shape + o.model
	}
	p := &profile.Profile{
		Name: o.name, Calibrated: true, MemoryBytes: dev.MemoryBytes(), UsableMemoryPermille: 900, ReservedBytes: 64 << 20,
		Source: fmt.Sprintf("findep calibrate, %s, on %s with %s weights, layer of %s, median of %d trials after %d.",
			now.UTC().Format(time.DateOnly), deviceText(dev, o.threads), o.dtype, name, o.trials, o.warmUp),
	}
	p.Memory.Name = "device memory"
	switch kind, _, _ := strings.Cut(dev.Name(), ":"); kind {
	case native.CPU:
		p.Device.Backend = profile.BackendCPU
	case native.CUDA:
		p.Device.Backend = profile.BackendCUDA
	}
	if o.backend == native.CUDA {
		p.ReservedBytes = 2 << 30
	}
	if p.Name == "" {
		p.Name = "calibrated-" + o.backend
	}
	return p
}

// deviceText names a device; the CPU backend does not say which CPU it is.
func deviceText(dev backend.Device, threads int) string {
	if dev.Name() != native.CPU {
		return dev.Name()
	}
	text := fmt.Sprintf("%s (%d of %d threads", dev.Name(), threads, runtime.NumCPU())
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, ok := strings.CutPrefix(line, "model name"); ok {
				text += " of " + strings.Trim(name, "\t :\n")
				break
			}
		}
	}
	return text + ")"
}

// quality is the part of a profile's source that says how good the fits are.
func quality(lines []*calibrate.Line) string {
	var b strings.Builder
	for _, l := range lines {
		if len(l.Points) > 0 {
			fmt.Fprintf(&b, " %s R2 %.4f.", l.Kind, l.RSquared)
		}
	}
	return b.String()
}

// object is the profile for kubectl.
func (o *calibrateOptions) object(p *profile.Profile) v1alpha1.GPUProfile {
	g := v1alpha1.GPUProfile{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "GPUProfile"},
		ObjectMeta: metav1.ObjectMeta{Name: p.Name},
		Spec:       resolve.Unconvert(p),
	}
	g.Spec.NodeSelector = o.selector
	if p.Device.Backend != profile.BackendCUDA {
		return g
	}
	ctx, cancel := context.WithTimeout(context.Background(), driverPatience)
	defer cancel()
	if gpus, err := devices.List(ctx, nvml.New()); err == nil && o.device < len(gpus) {
		g.Spec.ComputeCapability = gpus[o.device].ComputeCapability
		if len(o.selector) == 0 {
			g.Spec.NodeSelector = map[string]string{resolve.ProductLabel: gpus[o.device].ProductLabel()}
		}
	}
	return g
}

func (c *calibration) yaml(out, progress io.Writer) error {
	b, err := yaml.Marshal(c.object)
	if err != nil {
		return err
	}
	if err := c.table(progress); err != nil {
		return err
	}
	_, err = out.Write(b)
	return err
}

func (c *calibration) json(out, progress io.Writer) error {
	if err := c.table(progress); err != nil {
		return err
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(c.object)
}

// table shows the fits, each with its worst point.
func (c *calibration) table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "MODEL\tALPHA\tBETA\tUNIT\tR2\tLARGEST ERROR\tSIZES\tSMALLEST\tLARGEST")
	for _, l := range c.lines {
		if len(l.Points) == 0 {
			continue
		}
		unit := "us/GMAC"
		if l.Kind == calibrate.Memory || l.Kind == calibrate.Link {
			unit = "us/MB"
		}
		first, last := l.Points[0], l.Points[0]
		for _, p := range l.Points {
			if p.Amount < first.Amount {
				first = p
			}
			if p.Amount > last.Amount {
				last = p
			}
		}
		fmt.Fprintf(w, "%s\t%.4g us\t%.4g\t%s\t%.4f\t%.0f %%\t%d\t%s: %.4g us\t%s: %.4g us\n", l.Kind, l.Alpha, l.Beta, unit,
			l.RSquared, 100*l.MaxRelativeError, len(l.Points), first.What, first.Microseconds, last.What, last.Microseconds)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, n := range c.notes {
		if _, err := fmt.Fprintln(out, n); err != nil {
			return err
		}
	}
	return nil
}

// roundsBar shows the progress of one series after the other.
type roundsBar struct {
	out  io.Writer
	kind calibrate.Kind
	bar  *progressBar
}

func (b *roundsBar) show(kind calibrate.Kind, _, rounds int) {
	if b.bar == nil || kind != b.kind || b.bar.done >= b.bar.total {
		b.end()
		b.kind, b.bar = kind, &progressBar{out: b.out, total: rounds, label: string(kind)}
	}
	b.bar.step()
}

func (b *roundsBar) end() {
	if b.bar != nil {
		b.bar.end()
		b.bar = nil
	}
}
