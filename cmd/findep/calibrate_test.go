// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"
	"sigs.k8s.io/yaml"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/native"
	"github.com/findep/findep-operator/runtime/calibrate"
	"github.com/findep/findep-operator/runtime/profile"
)

// calibrated is a calibration that succeeded, without the machine's mood.
func calibrated(t *testing.T, o calibrateOptions) *calibration {
	t.Helper()
	p, err := profile.Preset("cpu")
	if err != nil {
		t.Fatal(err)
	}
	p.Name, p.Calibrated, p.Source = "measured-cpu", true, "findep calibrate"
	var r calibrate.Result
	for i, l := range r.Lines() {
		s := calibrate.Series{Kind: []calibrate.Kind{calibrate.GEMM, calibrate.GroupedGEMM, calibrate.Attention, calibrate.DecodeAttention, calibrate.Memory, calibrate.Link}[i]}
		for x := 1.0; x <= 5; x++ {
			s.Points = append(s.Points, calibrate.Point{What: fmt.Sprintf("%s of %v", s.Kind, x), Amount: x, Microseconds: 3.25 + float64(i+1)*x})
		}
		if *l, err = calibrate.FitLine(s); err != nil {
			t.Fatal(err)
		}
	}
	r.Fill(p)
	p.Source += quality(r.Lines())
	return &calibration{lines: r.Lines(), profile: p, object: o.object(p)}
}

// What is written is an object that the API server accepts, that the operator
// picks by the node's labels, and that findep solve reads, all with the numbers
// that were measured.
func TestCalibrationIsAGPUProfileForEveryReader(t *testing.T) {
	labels := map[string]string{"kubernetes.io/arch": "amd64"}
	c := calibrated(t, calibrateOptions{backend: native.CPU, selector: labels})
	for format, write := range map[string]func(*calibration, *strings.Builder, *strings.Builder) error{
		"yaml": func(c *calibration, out, progress *strings.Builder) error { return c.yaml(out, progress) },
		"json": func(c *calibration, out, progress *strings.Builder) error { return c.json(out, progress) },
	} {
		var out, progress strings.Builder
		if err := write(c, &out, &progress); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(progress.String(), "decodeAttention") || !strings.Contains(progress.String(), "1.0000") {
			t.Errorf("%s: the fits are not shown: %s", format, progress.String())
		}
		var g v1alpha1.GPUProfile
		if err := yaml.UnmarshalStrict([]byte(out.String()), &g); err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		if diff := cmp.Diff(c.object, g); diff != "" {
			t.Errorf("%s (-written +read):\n%s", format, diff)
		}
		if problems := crdProblems(t, []byte(out.String())); len(problems) > 0 {
			t.Errorf("%s: the API server would refuse it: %v", format, problems)
		}
		path := filepath.Join(t.TempDir(), "profile."+format)
		if err := os.WriteFile(path, []byte(out.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		solveWith(t, fmt.Sprintf("{file: %q}", path))
	}

	d := &v1alpha1.MoEDeployment{Spec: v1alpha1.MoEDeploymentSpec{
		Model: v1alpha1.ModelSpec{Name: "deepseek-ai/DeepSeek-V2-Lite", Source: v1alpha1.ModelSource{URI: "pvc://weights/model"}}, GPUs: v1alpha1.GPUSpec{Total: 32},
	}}
	r := resolve.Resolve(d, resolve.Facts{
		Profiles: []v1alpha1.GPUProfile{c.object}, NodeLabels: []map[string]string{labels},
	})
	picked := r.Profiles[v1alpha1.RoleExpert].Profile
	if picked == nil || picked.Name != "measured-cpu" || !picked.Calibrated {
		t.Fatalf("the operator picks %+v: %+v, %+v", picked, r.Model, r.Feasible)
	}
	for name, pair := range map[string][2]float64{
		"gemm":            {picked.GEMM.MicrosecondsPerGigaMAC, 1},
		"groupedGEMM":     {picked.GroupedGEMM.MicrosecondsPerGigaMAC, 2},
		"attention":       {picked.Attention.MicrosecondsPerGigaMAC, 3},
		"decodeAttention": {picked.Decode().MicrosecondsPerGigaMAC, 4},
		"memory":          {picked.Memory.MicrosecondsPerMegabyte, 5},
		"link":            {picked.Link.MicrosecondsPerMegabyte, 6},
		"alpha":           {picked.GEMM.AlphaMicroseconds, 3.25},
	} {
		if d := pair[0] - pair[1]; d > 1e-3 || d < -1e-3 {
			t.Errorf("%s: the operator reads %v, measured %v", name, pair[0], pair[1])
		}
	}
	solveWith(t, "{inline: "+inlineJSON(t, c.object)+"}")
}

func inlineJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := yaml.Marshal(v)
	if err == nil {
		b, err = yaml.YAMLToJSON(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// solveWith solves a problem whose profile is the given YAML.
func solveWith(t *testing.T, profile string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "problem.yaml")
	text := "model: {name: deepseek-ai/DeepSeek-V2-Lite}\nprofile: " + profile +
		"\ngpus: {attention: 16, expert: 16}\nworkload: {phase: Decode, contextTokens: 64, batch: 16}\noptions: {dtype: bfloat16}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := findep(t, "solve", "-f", path, "-o", "json")
	if err != nil {
		t.Errorf("profile: %s: %v", profile, err)
	}
	if !strings.Contains(out, `"microBatchSize"`) {
		t.Errorf("profile: %s: solve prints %s", profile, out)
	}
}

// crdProblems is what the CRD's schema has against an object.
func crdProblems(t *testing.T, object []byte) []error {
	t.Helper()
	text, err := os.ReadFile("../../config/crd/bases/findep.dev_gpuprofiles.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct{ OpenAPIV3Schema spec.Schema }
			}
		}
	}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	if err := yaml.Unmarshal(object, &tree); err != nil {
		t.Fatal(err)
	}
	return validate.NewSchemaValidator(&crd.Spec.Versions[0].Schema.OpenAPIV3Schema, nil, "", strfmt.Default).Validate(tree).Errors
}

func TestTheCRDRefusesABadCalibration(t *testing.T) {
	c := calibrated(t, calibrateOptions{backend: native.CPU})
	c.object.Spec.GEMM.PicosecondsPerGigaMAC = -1
	if problems := crdProblems(t, []byte(inlineJSON(t, c.object))); len(problems) != 1 || !strings.Contains(problems[0].Error(), "spec.gemm.picosecondsPerGigaMAC") {
		t.Errorf("problems %v, want one with the slope; the test of good ones means nothing otherwise", problems)
	}
}

func TestCalibrateRefusesBadFlags(t *testing.T) {
	const tiny = "../../test/testdata/tinymodel"
	for _, c := range []struct {
		args []string
		want string
		code int
	}{
		{nil, "give one of --model, --shape and --model-name", exitUsage},
		{[]string{"--model", tiny, "--model-name", "a"}, "give one of", exitUsage},
		{[]string{"--model-name", "acme/unknown"}, "deepseek-ai/DeepSeek-V2", exitUsage},
		{[]string{"--model", "/no/such/place"}, "/no/such/place/config.json", exitUsage},
		{[]string{"--shape", "testdata/problems/raw.yaml"}, "raw.yaml", exitUsage},
		{[]string{"--model", tiny, "--trials", "2"}, "--trials is 2; need 3 to 10000", exitUsage},
		{[]string{"--model", tiny, "--warmup", "-1"}, "--warmup is -1", exitUsage},
		{[]string{"--model", tiny, "--dtype", "f64"}, `--dtype is "f64"`, exitUsage},
		{[]string{"--model", tiny, "--link", "string"}, "--link is \"string\"; use tcp or tcp-plain to measure loopback, or a built-in link (nvlink-4", exitUsage},
		{[]string{"--model", tiny, "--name", "My_GPU"}, `--name is "My_GPU"`, exitUsage},
		{[]string{"--model", tiny, "--node-selector", "a b=c"}, "--node-selector a b=c", exitUsage},
		{[]string{"--model", tiny, "--output", "xml"}, `--output is "xml"`, exitUsage},
		{[]string{"--model", tiny, "--budget", "2h"}, "--budget is 2h0m0s", exitUsage},
		{[]string{"--model", tiny, "--budget", "1ms"}, "--budget is 1ms", exitUsage},
		{[]string{"--model", tiny, "--point-milliseconds", "0"}, "--point-milliseconds is 0", exitUsage},
		{[]string{"--model", tiny, "--backend", "reference", "--max-tokens", "1"}, "max-tokens is 1; need 16", exitUsage},
		{[]string{"--model", tiny, "--backend", "tpu"}, `no backend "tpu" is linked in; there are: auto, cpu, cuda`, exitFailure},
		{[]string{"--model", tiny, "--frobnicate"}, "--frobnicate", exitUsage},
	} {
		out, err := findep(t, append([]string{"calibrate"}, c.args...)...)
		if err == nil || !strings.Contains(err.Error(), c.want) || codeOf(err) != c.code {
			t.Errorf("%v: exit code %d, error %v; want %d and %q", c.args, codeOf(err), err, c.code, c.want)
		}
		if out != "" {
			t.Errorf("%v prints %q to standard output", c.args, out)
		}
	}
}

// Where there is no GPU, the answer is the library's or the loader's own.
func TestCalibrateWithoutAGPUSaysWhatIsMissing(t *testing.T) {
	if dev, err := backend.Open(native.CUDA, backend.Options{}); err == nil {
		_ = dev.Close()
		t.Skip("this machine has a GPU")
	}
	_, wanted := backend.Open(native.CUDA, backend.Options{})
	_, err := findep(t, "calibrate", "--backend", "cuda", "--model", "../../test/testdata/tinymodel")
	if err == nil || err.Error() != wanted.Error() || codeOf(err) != exitFailure {
		t.Errorf("error %v, want %v", err, wanted)
	}
}

func TestPoorFitsHaveAnExitCodeOfTheirOwn(t *testing.T) {
	err := poorFitError{errors.Join(&calibrate.PoorFitError{Kind: calibrate.GEMM, RSquared: 0.5}, &calibrate.PoorFitError{Kind: calibrate.Link})}
	if code := exitCode(err); code != 4 {
		t.Errorf("exit code %d, want 4", code)
	}
	if !isPoorFit(err) || !strings.Contains(err.Error(), "gemm: R2 is 0.5000") || !strings.Contains(err.Error(), "link: ") {
		t.Errorf("error %v", err)
	}
}

// One whole run on the plain Go backend. Whether this machine is quiet enough
// for a good fit is not this test's business, so both outcomes are checked for
// what must be true of them.
func TestCalibrateRunsFromEndToEnd(t *testing.T) {
	for _, link := range []string{"tcp", "tcp-plain", "nvlink-4"} {
		out, err := findep(t, "calibrate", "--backend", "reference", "--model", "../../test/testdata/tinymodel",
			"--trials", "3", "--warmup", "1", "--max-tokens", "64", "--link", link, "--name", "here")
		switch {
		case err != nil && codeOf(err) == exitPoorFit:
			if out != "" || !strings.Contains(err.Error(), "R2 is") {
				t.Errorf("--link %s: refused with %v, and prints %q", link, err, out)
			}
		case err != nil:
			t.Errorf("--link %s: %v", link, err)
		default:
			if problems := crdProblems(t, []byte(out)); len(problems) > 0 {
				t.Errorf("--link %s: %v", link, problems)
			}
			if quality := "quality: Measured"; link != "nvlink-4" && !strings.Contains(out, quality) {
				t.Errorf("--link %s: no %q in %s", link, quality, out)
			}
		}
	}
}

// The budget bounds the sizes, and only ever makes them smaller.
func TestBudgetBoundsThePoints(t *testing.T) {
	for name, tc := range map[string]struct {
		o    calibrateOptions
		want time.Duration
	}{
		"none on the CPU":     {calibrateOptions{backend: native.CPU}, 60 * time.Millisecond},
		"roomy":               {calibrateOptions{backend: native.CPU, budget: time.Hour}, 60 * time.Millisecond},
		"tight":               {calibrateOptions{backend: native.CPU, budget: 5 * 124 * time.Second / 100}, 10 * time.Millisecond},
		"twice the series":    {calibrateOptions{backend: native.CPU, budget: 5 * 124 * time.Second / 100, withCommunication: true}, 5 * time.Millisecond},
		"GPU, larger points":  {calibrateOptions{backend: native.CUDA, pointMilliseconds: 60_000}, 2 * time.Minute / (5 * 124)},
		"GPU, default points": {calibrateOptions{backend: native.CUDA}, 60 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			o := tc.o
			o.shape, o.dtype, o.link, o.output, o.trials, o.warmUp = "config.json", "f32", "nvlink-4", "yaml", 30, 10
			o.pointMilliseconds = max(o.pointMilliseconds, 60)
			if _, err := o.validate(); err != nil {
				t.Fatal(err)
			}
			if got := o.pointTime(); got != tc.want {
				t.Errorf("points of %v, want %v", got, tc.want)
			}
		})
	}
}

// What runs beside communication is told for each kind, and only on request.
func TestCalibrateBesideCommunication(t *testing.T) {
	dev, err := backend.Open("reference", backend.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dev.Close() }()
	shape, err := (&calibrateOptions{model: "../../test/testdata/tinymodel"}).modelShape()
	if err != nil {
		t.Fatal(err)
	}
	bench, err := calibrate.NewBench(dev, shape, calibrate.ComputeOptions{DType: backend.F32, MaxTokens: 16, PointTime: time.Microsecond, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bench.Close() }()
	options := calibrate.Options{Trials: 3, Now: time.Now}
	for beside, want := range map[bool]int{false: 0, true: computeSeries} {
		notes, err := (&calibrateOptions{withCommunication: beside, link: linkPlainTCP}).measureBeside(t.Context(), bench, &calibrate.Result{}, options)
		if err != nil || len(notes) != want {
			t.Errorf("with communication %v: notes %q, error %v", beside, notes, err)
		}
		for _, n := range notes {
			if !strings.Contains(n, "with communication: ") || !strings.Contains(n, "1.00 times as long") {
				t.Errorf("%q does not compare", n)
			}
		}
	}
}

// A link from a datasheet makes the whole profile one.
func TestADatasheetLinkIsNoMeasurement(t *testing.T) {
	o := calibrateOptions{link: "nvlink-4"}
	p := &profile.Profile{Calibrated: true}
	if _, notes, err := o.measureLinks(t.Context(), calibrate.Options{}, p); err != nil || len(notes) != 1 {
		t.Fatalf("notes %q, error %v", notes, err)
	}
	if p.Calibrated || p.Link.Name != "NVLink 4" {
		t.Errorf("profile %+v, want NVLink's numbers and quality Datasheet", p)
	}
}
