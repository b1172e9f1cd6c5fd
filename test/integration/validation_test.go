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
		for _, file := range []string{"findep_v1alpha1_moedeployment.yaml", "findep_v1alpha1_gpuprofile.yaml"} {
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
