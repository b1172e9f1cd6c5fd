// SPDX-License-Identifier: Apache-2.0

package resolve_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/runtime/profile"
	"github.com/findep/findep-operator/test/wrappers"
)

var images = resolve.Images{Runtime: "findep/runtime:1", Server: "findep/server:1", PullPolicy: corev1.PullIfNotPresent}

func config(t *testing.T, path string) *resolve.ConfigFile {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return &resolve.ConfigFile{Data: string(b)}
}

func TestResolveFindings(t *testing.T) {
	const tiny = "../../test/testdata/tinymodel/config.json"
	cases := map[string]struct {
		deployment            *wrappers.MoEDeploymentWrapper
		facts                 func(*resolve.Facts)
		wantModel, wantFinds  string
		wantText, wantNotText string
	}{
		"a catalogue model that fits": {
			deployment: wrappers.MoEDeployment("a"),
			wantModel:  v1alpha1.ReasonResolved, wantFinds: v1alpha1.ReasonFits,
		},
		"the sample model on CPU": {
			deployment: wrappers.MoEDeployment("a").ConfigFrom("c").Profile("cpu"),
			facts:      func(f *resolve.Facts) { f.Config = config(t, tiny) },
			wantModel:  v1alpha1.ReasonResolved, wantFinds: v1alpha1.ReasonFits,
		},
		"an unknown model lists the known ones": {
			deployment: wrappers.MoEDeployment("a").Model("acme/unknown"),
			wantModel:  v1alpha1.ReasonUnknownModel, wantFinds: v1alpha1.ReasonModelNotResolved,
			wantText: "deepseek-ai/DeepSeek-V2-Lite",
		},
		"a ConfigMap that is not there": {
			deployment: wrappers.MoEDeployment("a").ConfigFrom("c"),
			facts: func(f *resolve.Facts) {
				f.Config = &resolve.ConfigFile{Problem: `there is none with the name "c".`}
			},
			wantModel: v1alpha1.ReasonConfigNotFound, wantFinds: v1alpha1.ReasonModelNotResolved,
			wantText: `"c"`,
		},
		"a config.json that is not JSON": {
			deployment: wrappers.MoEDeployment("a").ConfigFrom("c"),
			facts:      func(f *resolve.Facts) { f.Config = &resolve.ConfigFile{Data: "{"} },
			wantModel:  v1alpha1.ReasonConfigInvalid, wantFinds: v1alpha1.ReasonModelNotResolved,
			wantText: `"config.json"`,
		},
		"a hub cannot be downloaded from yet": {
			deployment: wrappers.MoEDeployment("a").Source("hf://a/b"),
			wantModel:  v1alpha1.ReasonSourceNotSupported, wantFinds: v1alpha1.ReasonModelNotResolved,
			wantText: "pvc://",
		},
		"more expert GPUs than experts": {
			deployment: wrappers.MoEDeployment("a").GPUs(1, 65),
			wantModel:  v1alpha1.ReasonResolved, wantFinds: v1alpha1.ReasonTooManyExpertGPUs,
			wantText: "64 routed experts",
		},
		"too little memory for experts names the group and what fits": {
			deployment: wrappers.MoEDeployment("a").Model("deepseek-ai/DeepSeek-V2").GPUs(1, 1),
			wantModel:  v1alpha1.ReasonResolved, wantFinds: v1alpha1.ReasonMemoryExceeded,
			wantText: "nearest split that fits",
		},
		"no split fits CPU ranks": {
			deployment: wrappers.MoEDeployment("a").Model("deepseek-ai/DeepSeek-V3").GPUs(1, 1).Profile("cpu"),
			wantModel:  v1alpha1.ReasonResolved, wantFinds: v1alpha1.ReasonMemoryExceeded,
			wantText: "attention group needs at least",
		},
		"no split of a total fits": {
			deployment: wrappers.MoEDeployment("a").Model("deepseek-ai/DeepSeek-V2").TotalGPUs(4),
			wantModel:  v1alpha1.ReasonResolved, wantFinds: v1alpha1.ReasonMemoryExceeded,
			wantText: "No split of 4 GPUs fits",
		},
		"a context longer than the model's": {
			deployment: wrappers.MoEDeployment("a").With(func(s *v1alpha1.MoEDeploymentSpec) { s.Model.MaxContextTokens = 1 << 24 }),
			wantModel:  v1alpha1.ReasonResolved, wantFinds: v1alpha1.ReasonContextTooLong,
		},
		"an objective that cannot be met": {
			deployment: wrappers.MoEDeployment("a").With(func(s *v1alpha1.MoEDeploymentSpec) { s.SLO.TimePerOutputTokenMilliseconds = 1 }),
			wantModel:  v1alpha1.ReasonResolved, wantFinds: v1alpha1.ReasonObjectiveUnreachable,
			wantText: "slo.timePerOutputTokenMilliseconds is 1",
		},
		"an unknown profile lists the presets": {
			deployment: wrappers.MoEDeployment("a").Profile("b300"),
			wantModel:  v1alpha1.ReasonResolved, wantFinds: v1alpha1.ReasonProfileNotFound,
			wantText: "h100-sxm",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			facts := resolve.Facts{Images: images}
			if tc.facts != nil {
				tc.facts(&facts)
			}
			r := resolve.Resolve(tc.deployment.Obj(), facts)
			if r.Model.Reason != tc.wantModel || r.Feasible.Reason != tc.wantFinds {
				t.Fatalf("got model %+v, feasible %+v; want %s and %s", r.Model, r.Feasible, tc.wantModel, tc.wantFinds)
			}
			text := r.Model.Message + " " + r.Feasible.Message
			if !strings.Contains(text, tc.wantText) {
				t.Errorf("%q does not say %q", text, tc.wantText)
			}
			if r.OK() {
				if err := r.Start.Validate(); err != nil {
					t.Errorf("the plan to start with cannot be executed: %v", err)
				}
			}
			if again := resolve.Resolve(tc.deployment.Obj(), facts); !cmp.Equal(r, again) {
				t.Errorf("equal input gave two results:\n%s", cmp.Diff(r, again))
			}
		})
	}
}

func TestMemoryMessageNamesBytesAndRemedy(t *testing.T) {
	d := wrappers.MoEDeployment("a").Model("deepseek-ai/DeepSeek-V2").GPUs(1, 1).Obj()
	r := resolve.Resolve(d, resolve.Facts{Images: images})
	wrappers.Golden(t, "memory-exceeded.golden", r.Feasible.Message+"\n")
}

func TestTotalChoosesAndKeepsASplit(t *testing.T) {
	d := wrappers.MoEDeployment("a").TotalGPUs(8).Obj()
	first := resolve.Resolve(d, resolve.Facts{Images: images})
	if !first.OK() || first.Decision.Attention+first.Decision.Expert != 8 {
		t.Fatalf("got %+v, %+v", first.Decision, first.Feasible)
	}
	if len(first.Alternatives) == 0 || first.Alternatives[0].Why == "" {
		t.Errorf("no alternatives with a reason: %+v", first.Alternatives)
	}
	// Another split is running: neither it nor its images may change by
	// themselves.
	existing := first.Decision
	existing.Attention, existing.Expert, existing.Why = 7, 1, "before"
	existing.Images.Runtime = "findep/runtime:0"
	kept := resolve.Resolve(d, resolve.Facts{Images: images, Existing: &existing})
	if diff := cmp.Diff(existing, kept.Decision); diff != "" {
		t.Errorf("the running decision changed (-want +got):\n%s", diff)
	}
}

func TestProfileOfNodes(t *testing.T) {
	h100 := map[string]string{resolve.ProductLabel: "NVIDIA-H100-80GB-HBM3", "pool": "a"}
	mine := wrappers.GPUProfile("mine").Selector(resolve.ProductLabel, "NVIDIA-H100-80GB-HBM3").Memory(80 << 30).Obj()
	exact := wrappers.GPUProfile("only-pool-a").Selector(resolve.ProductLabel, "NVIDIA-H100-80GB-HBM3").Selector("pool", "a").Memory(80 << 30).Obj()
	cases := map[string]struct {
		nodes    []map[string]string
		profiles []v1alpha1.GPUProfile
		selector map[string]string
		want     string
	}{
		"no nodes known":                         {want: "cpu"},
		"nodes without a label":                  {nodes: []map[string]string{{}}, want: "cpu"},
		"preset by product":                      {nodes: []map[string]string{{}, h100}, want: "h100-sxm"},
		"product without a preset":               {nodes: []map[string]string{{resolve.ProductLabel: "Tesla-K80"}}, want: "cpu"},
		"own profile before preset":              {nodes: []map[string]string{h100}, profiles: []v1alpha1.GPUProfile{*mine}, want: "mine"},
		"the more specific profile":              {nodes: []map[string]string{h100}, profiles: []v1alpha1.GPUProfile{*mine, *exact}, want: "only-pool-a"},
		"nodes that the group may not run on":    {nodes: []map[string]string{h100}, selector: map[string]string{"pool": "b"}, want: "cpu"},
		"a profile whose nodes are not eligible": {nodes: []map[string]string{h100}, profiles: []v1alpha1.GPUProfile{*mine}, selector: map[string]string{"pool": "b"}, want: "cpu"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d := wrappers.MoEDeployment("a").Profile("").With(func(s *v1alpha1.MoEDeploymentSpec) {
				s.Groups.Attention.NodeSelector = tc.selector
			}).Obj()
			r := resolve.Resolve(d, resolve.Facts{Images: images, NodeLabels: tc.nodes, Profiles: tc.profiles})
			p := r.Profiles[v1alpha1.RoleAttention]
			if p.Profile == nil || p.Profile.Name != tc.want || p.Why == "" {
				t.Errorf("got %+v, want profile %s and a reason", p, tc.want)
			}
		})
	}
}

func TestRevisionFollowsIntentOnly(t *testing.T) {
	base := wrappers.MoEDeployment("a")
	revision := func(change func(*v1alpha1.MoEDeploymentSpec)) string {
		d := base.Obj()
		change(&d.Spec)
		return resolve.Revision(d, nil)
	}
	unchanged := revision(func(*v1alpha1.MoEDeploymentSpec) {})
	cases := map[string]struct {
		change  func(*v1alpha1.MoEDeploymentSpec)
		restart bool
	}{
		"policy":          {func(s *v1alpha1.MoEDeploymentSpec) { s.Schedule.Policy = v1alpha1.PolicyPPPipe }, false},
		"slo":             {func(s *v1alpha1.MoEDeploymentSpec) { s.SLO.TimeToFirstTokenMilliseconds = 5 }, false},
		"workload":        {func(s *v1alpha1.MoEDeploymentSpec) { s.Workload.Concurrency = 5 }, false},
		"replicas":        {func(s *v1alpha1.MoEDeploymentSpec) { *s.Replicas = 5 }, false},
		"profile":         {func(s *v1alpha1.MoEDeploymentSpec) { s.Groups.Expert.ProfileRef = "a6000" }, false},
		"rollout":         {func(s *v1alpha1.MoEDeploymentSpec) { s.Rollout.MaxUnavailable = 2 }, false},
		"recovery":        {func(s *v1alpha1.MoEDeploymentSpec) { s.Recovery.BackoffSeconds = 2 }, false},
		"split":           {func(s *v1alpha1.MoEDeploymentSpec) { s.GPUs.Expert = 4 }, true},
		"image":           {func(s *v1alpha1.MoEDeploymentSpec) { s.Images.Server = "x" }, true},
		"source":          {func(s *v1alpha1.MoEDeploymentSpec) { s.Model.Source.URI = "oci://x" }, true},
		"context":         {func(s *v1alpha1.MoEDeploymentSpec) { s.Model.MaxContextTokens = 64 }, true},
		"node selector":   {func(s *v1alpha1.MoEDeploymentSpec) { s.Groups.Expert.NodeSelector = map[string]string{"a": "b"} }, true},
		"priority class":  {func(s *v1alpha1.MoEDeploymentSpec) { s.Placement.PriorityClassName = "high" }, true},
		"gang scheduling": {func(s *v1alpha1.MoEDeploymentSpec) { s.Placement.Gang = v1alpha1.GangOff }, true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if changed := revision(tc.change) != unchanged; changed != tc.restart {
				t.Errorf("restarts pods: %t, want %t", changed, tc.restart)
			}
		})
	}
}

func TestFieldsWithoutEffectAreListed(t *testing.T) {
	d := wrappers.MoEDeployment("a").With(func(s *v1alpha1.MoEDeploymentSpec) {
		s.Groups.Attention.GPUsPerPod = 2
		s.Groups.Expert.ServerResources = &corev1.ResourceRequirements{}
		s.Placement.Topology = v1alpha1.TopologySpec{Instance: v1alpha1.TopologyRequired, Key: "rack"}
	}).Obj()
	got := strings.Join(resolve.Resolve(d, resolve.Facts{Images: images}).NotActedOn, "\n")
	for _, field := range []string{"groups.attention.gpusPerPod", "groups.expert.serverResources", "placement.topology"} {
		if !strings.Contains(got, field) {
			t.Errorf("%s is not listed in:\n%s", field, got)
		}
	}
	if got := resolve.Resolve(wrappers.MoEDeployment("a").Obj(), resolve.Facts{Images: images}).NotActedOn; len(got) > 0 {
		t.Errorf("a spec without such fields lists %v", got)
	}
}

func TestParseSource(t *testing.T) {
	cases := map[string]struct {
		in      v1alpha1.ModelSource
		want    resolve.Source
		wantErr string
	}{
		"claim":            {in: v1alpha1.ModelSource{URI: "pvc://weights"}, want: resolve.Source{Kind: resolve.SourcePVC, Reference: "weights"}},
		"claim and path":   {in: v1alpha1.ModelSource{URI: "pvc://weights/a/b/"}, want: resolve.Source{Kind: resolve.SourcePVC, Reference: "weights", SubPath: "a/b"}},
		"image":            {in: v1alpha1.ModelSource{URI: "oci://r/m:1"}, want: resolve.Source{Kind: resolve.SourceImage, Reference: "r/m:1"}},
		"image and path":   {in: v1alpha1.ModelSource{URI: "oci://r/m:1", Path: "x/y"}, want: resolve.Source{Kind: resolve.SourceImage, Reference: "r/m:1", SubPath: "x/y"}},
		"host directory":   {in: v1alpha1.ModelSource{URI: "hostpath:///m/x"}, want: resolve.Source{Kind: resolve.SourceHostPath, Reference: "/m/x"}},
		"relative host":    {in: v1alpha1.ModelSource{URI: "hostpath://m"}, wantErr: "absolute"},
		"climbing out":     {in: v1alpha1.ModelSource{URI: "pvc://w/../x"}, wantErr: ".."},
		"unknown scheme":   {in: v1alpha1.ModelSource{URI: "s3://w"}, wantErr: "s3"},
		"no scheme at all": {in: v1alpha1.ModelSource{URI: "weights"}, wantErr: "pvc://"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := resolve.ParseSource(tc.in)
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Fatalf("got error %v, want one with %q", err, tc.wantErr)
				}
				return
			}
			if err != nil || got != tc.want {
				t.Errorf("got %+v, %v; want %+v", got, err, tc.want)
			}
		})
	}
}

// TestIntentIsRestored shows that an old revision can be made again whatever the
// spec says now.
func TestIntentIsRestored(t *testing.T) {
	config := &resolve.ConfigFile{Data: "{}"}
	old := wrappers.MoEDeployment("a").ConfigFrom("shape").With(func(s *v1alpha1.MoEDeploymentSpec) { s.Images.Server = "old" }).Obj()
	now := wrappers.MoEDeployment("a").GPUs(1, 1).Replicas(7).Profile("h20").Obj()
	restored, restoredConfig := resolve.IntentOf(old, config).Restore(now)
	if got, want := resolve.Revision(restored, restoredConfig), resolve.Revision(old, config); got != want {
		t.Errorf("got revision %s, want %s", got, want)
	}
	if *restored.Spec.Replicas != 7 || restored.Spec.Groups.Expert.ProfileRef != "h20" {
		t.Errorf("what is no part of the intent must stay as it is now: %+v", restored.Spec)
	}
}

// TestMemoryOverride: the user may know better than the estimate, and then gets
// a plan that needs no more than what was counted.
func TestMemoryOverride(t *testing.T) {
	for name, tc := range map[string]struct {
		gpus    v1alpha1.GPUSpec
		profile string
	}{
		"a fixed split":         {v1alpha1.GPUSpec{Attention: 2, Expert: 3}, ""},
		"a total":               {v1alpha1.GPUSpec{Total: 5}, ""},
		"with buffers of links": {v1alpha1.GPUSpec{Attention: 2, Expert: 3}, "cpu"},
	} {
		t.Run(name, func(t *testing.T) {
			d := wrappers.MoEDeployment("a").Model("deepseek-ai/DeepSeek-V3").With(func(s *v1alpha1.MoEDeploymentSpec) {
				s.GPUs, s.Groups.Attention.ProfileRef, s.Groups.Expert.ProfileRef = tc.gpus, tc.profile, tc.profile
			}).Obj()
			facts := resolve.Facts{Images: images}
			if r := resolve.Resolve(d, facts); r.OK() || r.Feasible.Reason != v1alpha1.ReasonMemoryExceeded {
				t.Fatalf("without the annotation: %+v", r.Feasible)
			}
			d.Annotations = map[string]string{v1alpha1.AnnotationMemoryCheck: v1alpha1.MemoryCheckOverride}
			r := resolve.Resolve(d, facts)
			if !r.OK() || r.Feasible.Reason != v1alpha1.ReasonMemoryCheckOverridden || !strings.Contains(r.Feasible.Message, "are missing") {
				t.Fatalf("with the annotation: %+v", r.Feasible)
			}
			if r.Start.MicroBatchSize < 1 || r.Predicted == nil || r.Decision.Attention+r.Decision.Expert != 5 {
				t.Errorf("no plan: %+v, split %+v", r.Start, r.Decision)
			}
			for _, m := range r.Memory {
				if m.Role == v1alpha1.RoleExpert && m.NeedBytes <= m.AvailableBytes {
					t.Errorf("status hides what is missing: %+v", m)
				}
			}
			if again := resolve.Resolve(d, facts); !cmp.Equal(r, again) {
				t.Error("not deterministic:", cmp.Diff(r, again))
			}
		})
	}
}

// Unconvert loses names, products and the quality of fits, and nothing else.
func TestConvertReadsWhatUnconvertWrote(t *testing.T) {
	for _, name := range profile.Presets() {
		want, err := profile.Preset(name)
		if err != nil {
			t.Fatal(err)
		}
		want.DecodeAttention = profile.Compute{AlphaMicroseconds: 1.5, MicrosecondsPerGigaMAC: 7}
		want.Calibrated = true
		g := v1alpha1.GPUProfile{Spec: resolve.Unconvert(want)}
		g.Name = want.Name
		want.Memory.Name, want.Link.Name = "memory", "link"
		if want.Device.Product != "" {
			// The product is the selector's, which the profile does not hold.
			want.Device.Product = "NVIDIA-X1"
			g.Spec.NodeSelector = map[string]string{resolve.ProductLabel: want.Device.Product}
		}
		if diff := cmp.Diff(want, resolve.Convert(&g), cmpopts.EquateApprox(1e-6, 0)); diff != "" {
			t.Errorf("%s (-preset +read back):\n%s", name, diff)
		}
	}
	least := resolve.Unconvert(&profile.Profile{})
	if least.GEMM.PicosecondsPerGigaMAC != 1 || least.Link.PicosecondsPerMegabyte != 1 || least.Memory != nil || least.DecodeAttention != nil {
		t.Errorf("an empty profile becomes %+v, want the least slopes that the API allows", least)
	}
}

// The operator predicts what the leader will run: with chunks where the
// schedule has them. One prompt in flight is where they matter most.
func TestPredictionKnowsTheScheduleChunks(t *testing.T) {
	predict := func(chunks v1alpha1.ScheduleChunks) *resolve.Result {
		d := wrappers.MoEDeployment("a").Model("deepseek-ai/DeepSeek-V2-Lite").Profile("h20").GPUs(2, 2).With(func(s *v1alpha1.MoEDeploymentSpec) {
			s.Schedule.Chunks, s.Workload.Concurrency, s.Workload.PromptTokens = chunks, 2, 8192
			s.Model.MaxContextTokens = 16384
		}).Obj()
		return resolve.Resolve(d, resolve.Facts{})
	}
	with, whole := predict(v1alpha1.ChunksAuto), predict(v1alpha1.ChunksOff)
	if with.Predicted == nil || whole.Predicted == nil {
		t.Fatalf("no prediction: %+v, %+v", with.Feasible, whole.Feasible)
	}
	if with.Start.Chunks < 2 || whole.Start.Chunks != 1 {
		t.Errorf("chunks %d with Auto and %d with Off, want some and 1", with.Start.Chunks, whole.Start.Chunks)
	}
	if a, b := with.Predicted.TimeToFirstTokenMilliseconds, whole.Predicted.TimeToFirstTokenMilliseconds; a >= b {
		t.Errorf("%d ms to the first token with chunks, %d ms without", a, b)
	}
	if d := predict(""); d.Start != with.Start {
		t.Errorf("the default plans %v, Auto %v", d.Start, with.Start)
	}
}
