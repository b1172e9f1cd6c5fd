// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"os"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/test/wrappers"
)

func liteConfig() string {
	GinkgoHelper()
	b, err := os.ReadFile("../testdata/configs/deepseek-v2-lite.json")
	Expect(err).NotTo(HaveOccurred())
	return string(b)
}

var _ = Describe("Admission of a MoEDeployment", func() {
	type change = func(*v1alpha1.MoEDeploymentSpec)
	apply := func(ctx context.Context, name string, f change) error {
		d := wrappers.MoEDeployment(name).With(f).Obj()
		return k8s.Create(ctx, d, client.DryRunAll)
	}

	DescribeTable("refuses", func(ctx context.Context, f change, message string) {
		Expect(apply(ctx, "a", f)).To(MatchError(ContainSubstring(message)))
	},
		Entry("no model", func(s *v1alpha1.MoEDeploymentSpec) { s.Model.Name = "" }, "give model.name"),
		Entry("a model name with spaces", func(s *v1alpha1.MoEDeploymentSpec) { s.Model.Name = "a b" }, "spec.model.name"),
		Entry("an unknown scheme", func(s *v1alpha1.MoEDeploymentSpec) { s.Model.Source.URI = "s3://bucket" }, "must be pvc://CLAIM/PATH"),
		Entry("a relative hostpath", func(s *v1alpha1.MoEDeploymentSpec) { s.Model.Source.URI = "hostpath://a" }, "hostpath:///PATH"),
		Entry("a source that climbs", func(s *v1alpha1.MoEDeploymentSpec) { s.Model.Source.URI = "pvc://a/../b" }, "must not contain '..'"),
		Entry("an unknown dtype", func(s *v1alpha1.MoEDeploymentSpec) { s.Model.DType = "INT3" }, "supported values"),
		Entry("no GPUs", func(s *v1alpha1.MoEDeploymentSpec) { s.GPUs = v1alpha1.GPUSpec{} }, "spec.gpus"),
		Entry("total beside attention", func(s *v1alpha1.MoEDeploymentSpec) { s.GPUs.Total = 4 }, "give either gpus.total"),
		Entry("attention alone", func(s *v1alpha1.MoEDeploymentSpec) { s.GPUs.Expert = 0 }, "must be given together"),
		Entry("a total of one", func(s *v1alpha1.MoEDeploymentSpec) { s.GPUs = v1alpha1.GPUSpec{Total: 1} }, "greater than or equal to 2"),
		Entry("negative replicas", func(s *v1alpha1.MoEDeploymentSpec) { s.Replicas = ptr.To[int32](-1) }, "greater than or equal to 0"),
		Entry("too many replicas", func(s *v1alpha1.MoEDeploymentSpec) { s.Replicas = ptr.To[int32](1001) }, "less than or equal to 1000"),
		Entry("an unknown policy", func(s *v1alpha1.MoEDeploymentSpec) { s.Schedule.Policy = "Fastest" }, "supported values"),
		Entry("another answer to unhealthy GPUs", func(s *v1alpha1.MoEDeploymentSpec) { s.Recovery.UnhealthyGPUs = "Always" }, "supported values"),
		Entry("too many segments", func(s *v1alpha1.MoEDeploymentSpec) { s.Schedule.MaxSegments = 257 }, "less than or equal to 256"),
		Entry("a backend beside no gang", func(s *v1alpha1.MoEDeploymentSpec) {
			s.Placement.Gang, s.Placement.Backend = v1alpha1.GangOff, v1alpha1.BackendPodGroup
		}, "placement.gang Off switches off"),
		Entry("Kueue without a queue", func(s *v1alpha1.MoEDeploymentSpec) { s.Placement.Backend = v1alpha1.BackendKueue }, "needs placement.queue"),
		Entry("a queue that is no name", func(s *v1alpha1.MoEDeploymentSpec) { s.Placement.Queue = "a b" }, "spec.placement.queue"),
		Entry("an unknown backend", func(s *v1alpha1.MoEDeploymentSpec) { s.Placement.Backend = "Slurm" }, "supported values"),
		Entry("a topology without a mode", func(s *v1alpha1.MoEDeploymentSpec) { s.Placement.Topology.Spread = &v1alpha1.TopologyRule{} }, "spec.placement.topology.spread"),
		Entry("a claim of no class", func(s *v1alpha1.MoEDeploymentSpec) { s.Groups.Expert.DeviceClaim = &v1alpha1.DeviceClaimSpec{} }, "deviceClassName"),
		Entry("GPUs among the resources", func(s *v1alpha1.MoEDeploymentSpec) {
			s.Groups.Expert.Resources = &corev1.ResourceRequirements{Limits: corev1.ResourceList{"nvidia.com/gpu": resource.MustParse("2")}}
		}, "it is set from gpusPerPod"),
	)

	// on is a change to vLLM with a version of its plugin and a split.
	on := func(version string, attention, expert int32, more ...change) change {
		return func(s *v1alpha1.MoEDeploymentSpec) {
			s.Engine, s.VLLM = v1alpha1.EngineVLLMAFD, &v1alpha1.VLLMSpec{Image: "vllm:1", PluginVersion: version}
			s.GPUs = v1alpha1.GPUSpec{Attention: attention, Expert: expert}
			for _, f := range more {
				f(s)
			}
		}
	}
	rule := func(r v1alpha1.RatioRule) change {
		return func(s *v1alpha1.MoEDeploymentSpec) { s.VLLM.RatioRule = r }
	}

	DescribeTable("refuses of vLLM", func(ctx context.Context, f change, message string) {
		Expect(apply(ctx, "a", f)).To(MatchError(ContainSubstring(message)))
	},
		Entry("the engine without settings", func(s *v1alpha1.MoEDeploymentSpec) { s.Engine = v1alpha1.EngineVLLMAFD }, "give both or neither"),
		Entry("settings without the engine", on("0.30.0", 2, 1, func(s *v1alpha1.MoEDeploymentSpec) { s.Engine = "" }), "give both or neither"),
		Entry("an unknown engine", func(s *v1alpha1.MoEDeploymentSpec) { s.Engine = "SGLang" }, "supported values"),
		Entry("no image", on("0.30.0", 2, 1, func(s *v1alpha1.MoEDeploymentSpec) { s.VLLM.Image = "" }), "spec.vllm.image"),
		Entry("a version that is none", on("main", 2, 1), "spec.vllm.pluginVersion"),
		Entry("3A5F with the older plugin", on("0.26.0", 3, 5), "raise gpus.attention, lower gpus.expert"),
		Entry("3A5F with the newer plugin", on("0.30.0", 3, 5), "raise gpus.attention, lower gpus.expert"),
		Entry("4A4F with the older plugin", on("0.26.0", 4, 4), "set gpus.expert to 1"),
		Entry("5A3F with the older plugin", on("0.29.1", 5, 3), "set gpus.expert to 1"),
		Entry("5A3F with the older rule", on("0.30.0", 5, 3, rule(v1alpha1.RatioDivisible)), "set gpus.expert to 1"),
		Entry("three micro-batches", on("0.30.0", 2, 1, func(s *v1alpha1.MoEDeploymentSpec) { s.VLLM.DualBatchOverlap.MicroBatches = 3 }), "exactly two micro-batches"),
		Entry("recovery in place", on("0.30.0", 2, 1, func(s *v1alpha1.MoEDeploymentSpec) { s.Recovery.Policy = v1alpha1.RecoveryInPlace }), "use RecreateInstance"),
		Entry("a privileged port", on("0.30.0", 2, 1, func(s *v1alpha1.MoEDeploymentSpec) { s.VLLM.Port = 80 }), "greater than or equal to 1024"),
	)

	DescribeTable("accepts of vLLM", func(ctx context.Context, f change) {
		Expect(apply(ctx, "a", f)).To(Succeed())
	},
		Entry("2A1F with the older plugin", on("0.26.0", 2, 1)),
		Entry("4A4F with the newer plugin", on("0.30.0", 4, 4)),
		Entry("5A3F with the newer plugin", on("0.30rc1", 5, 3)),
		Entry("5A3F of a build in between", on("0.28.1", 5, 3, rule(v1alpha1.RatioUneven))),
		Entry("3A5F of a build without a rule", on("0.30.0", 3, 5, rule(v1alpha1.RatioAny))),
		Entry("3A5F of a later major version, by the rule only", on("1.0", 3, 5, rule(v1alpha1.RatioAny))),
		Entry("a total", on("0.26.0", 0, 0, func(s *v1alpha1.MoEDeploymentSpec) { s.GPUs = v1alpha1.GPUSpec{Total: 8} })),
	)

	It("keeps the engine of a deployment", func(ctx context.Context) {
		d := wrappers.MoEDeployment("engine").Obj()
		Expect(k8s.Create(ctx, d)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(k8s.Delete(ctx, d)).To(Succeed()) })
		changed := d.DeepCopy()
		on("0.30.0", 2, 1)(&changed.Spec)
		Expect(k8s.Patch(ctx, changed, client.MergeFrom(d))).To(MatchError(ContainSubstring("make a second MoEDeployment")))
		changed = d.DeepCopy()
		changed.Spec.Engine = v1alpha1.EngineFinDEP
		Expect(k8s.Patch(ctx, changed, client.MergeFrom(d))).To(Succeed(), "the default, given")
	})

	DescribeTable("accepts", func(ctx context.Context, f change) {
		Expect(apply(ctx, "a", f)).To(Succeed())
	},
		Entry("a fixed split", func(*v1alpha1.MoEDeploymentSpec) {}),
		Entry("a total", func(s *v1alpha1.MoEDeploymentSpec) { s.GPUs = v1alpha1.GPUSpec{Total: 8} }),
		Entry("a shape from a ConfigMap under another name", func(s *v1alpha1.MoEDeploymentSpec) {
			s.Model.ConfigFrom = &v1alpha1.ModelConfigSource{Name: "c"}
		}),
		Entry("an image", func(s *v1alpha1.MoEDeploymentSpec) {
			s.Model.Source = v1alpha1.ModelSource{URI: "oci://localhost/findep/tinymodel:dev", Path: "a/b"}
		}),
		Entry("everything about placement", func(s *v1alpha1.MoEDeploymentSpec) {
			s.Placement = v1alpha1.PlacementSpec{Backend: v1alpha1.BackendKueue, Queue: "q", Topology: v1alpha1.TopologySpec{
				Instance: v1alpha1.TopologyRequired, Expert: &v1alpha1.TopologyRule{Mode: v1alpha1.TopologyNone}, Spread: &v1alpha1.TopologyRule{Mode: v1alpha1.TopologyPreferred, Key: "zone"},
			}}
		}),
		Entry("zero replicas", func(s *v1alpha1.MoEDeploymentSpec) { s.Replicas = ptr.To[int32](0) }),
		Entry("resources without GPUs", func(s *v1alpha1.MoEDeploymentSpec) {
			s.Groups.Expert.Resources = &corev1.ResourceRequirements{Limits: corev1.ResourceList{"memory": resource.MustParse("2Gi")}}
		}),
	)

	DescribeTable("checks the name", func(ctx context.Context, name, message string) {
		err := apply(ctx, name, func(*v1alpha1.MoEDeploymentSpec) {})
		if message == "" {
			Expect(err).NotTo(HaveOccurred())
		} else {
			Expect(err).To(MatchError(ContainSubstring(message)))
		}
	},
		Entry("longest", strings.Repeat("n", v1alpha1.MaxNameLength), ""),
		Entry("too long", strings.Repeat("n", v1alpha1.MaxNameLength+1), "at most 45 characters"),
		Entry("starts with a digit", "1a", "must start with a letter"),
		Entry("has a dot", "a.b", "must start with a letter"),
	)

	It("accepts the samples as they are", func(ctx context.Context) {
		for _, file := range []string{"findep_v1alpha1_moedeployment.yaml", "findep_v1alpha1_gpuprofile.yaml", "findep_v1alpha1_vllm.yaml"} {
			b, err := os.ReadFile("../../config/samples/" + file)
			Expect(err).NotTo(HaveOccurred())
			for _, doc := range strings.Split(string(b), "\n---\n") {
				o := &unstructured.Unstructured{}
				Expect(yaml.Unmarshal([]byte(doc), o)).To(Succeed())
				if o.GetKind() != "GPUProfile" {
					o.SetNamespace(wrappers.Namespace)
				}
				Expect(k8s.Create(ctx, o, client.DryRunAll, client.FieldValidation("Strict"))).To(Succeed(), "%s in %s", o.GetKind(), file)
				if o.GetKind() == "ConfigMap" {
					// The copy in the sample must be the checkpoint's own.
					text, _, err := unstructured.NestedString(o.Object, "data", "config.json")
					Expect(err).NotTo(HaveOccurred())
					own, err := os.ReadFile("../testdata/tinymodel/config.json")
					Expect(err).NotTo(HaveOccurred())
					Expect(text).To(MatchJSON(own))
				}
			}
		}
	})

	DescribeTable("refuses of a GPUProfile", func(ctx context.Context, f func(*v1alpha1.GPUProfileSpec), message string) {
		p := wrappers.GPUProfile("a").Obj()
		f(&p.Spec)
		Expect(k8s.Create(ctx, p, client.DryRunAll)).To(MatchError(ContainSubstring(message)))
	},
		Entry("GPUs among the resources", func(s *v1alpha1.GPUProfileSpec) {
			s.Resources = []v1alpha1.ExtendedResource{{Name: "nvidia.com/gpu", Count: 1}}
		}, "every pod has its GPU"),
		Entry("a resource without a domain", func(s *v1alpha1.GPUProfileSpec) {
			s.Resources = []v1alpha1.ExtendedResource{{Name: "memory", Count: 1}}
		}, "spec.resources[0].name"),
		Entry("a variable of the operator", func(s *v1alpha1.GPUProfileSpec) {
			s.Environment = []v1alpha1.EnvironmentVariable{{Name: "POD_IP", Value: "1"}}
		}, "the operator's own"),
	)

	It("refuses a GPUProfile without figures", func(ctx context.Context) {
		p := wrappers.GPUProfile("a").Obj()
		p.Spec.Link = v1alpha1.TransferModel{}
		Expect(k8s.Create(ctx, p, client.DryRunAll)).To(MatchError(ContainSubstring("spec.link")))
	})
})
