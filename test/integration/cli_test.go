// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/cmd/findep/cluster"
	"github.com/findep/findep-operator/test/wrappers"
)

// kubeconfig writes a file by which the commands reach the API server.
func kubeconfig() string {
	GinkgoHelper()
	c := clientcmdapi.NewConfig()
	c.Clusters["test"] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData}
	c.AuthInfos["test"] = &clientcmdapi.AuthInfo{ClientCertificateData: config.CertData, ClientKeyData: config.KeyData}
	c.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "test"}
	c.CurrentContext = "test"
	path := filepath.Join(GinkgoT().TempDir(), "kubeconfig")
	Expect(clientcmd.WriteToFile(*c, path)).To(Succeed())
	return path
}

var _ = Describe("The kubectl plugin", func() {
	const name = "lite"
	var w *world

	BeforeEach(func(ctx context.Context) { w = newWorld(ctx) })

	run := func(ctx context.Context, command *cobra.Command, args ...string) (string, error) {
		GinkgoHelper()
		var out bytes.Buffer
		command.SetOut(&out)
		command.SetErr(&out)
		command.SilenceUsage, command.SilenceErrors = true, true
		command.SetArgs(append(args, "--kubeconfig", kubeconfig(), "--namespace", w.namespace))
		err := command.ExecuteContext(ctx)
		return out.String(), err
	}
	rollout := func(ctx context.Context, args ...string) string {
		GinkgoHelper()
		out, err := run(ctx, cluster.NewRollout(), args...)
		Expect(err).NotTo(HaveOccurred())
		return out
	}
	manifest := func(d *wrappers.MoEDeploymentWrapper) string {
		GinkgoHelper()
		o := d.Obj()
		o.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "MoEDeployment"}
		text, err := json.Marshal(o)
		Expect(err).NotTo(HaveOccurred())
		path := filepath.Join(GinkgoT().TempDir(), "d.json")
		Expect(os.WriteFile(path, text, 0o600)).To(Succeed())
		return path
	}

	It("plans with the server's rules and the cluster's profiles, and makes nothing", func(ctx context.Context) {
		profile := wrappers.GPUProfile("plan-" + w.namespace).Obj()
		Expect(k8s.Create(ctx, profile)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(k8s.Delete(ctx, profile)).To(Succeed()) })
		out, err := run(ctx, cluster.NewPlan(), "--server", "-o", "json", "-f", manifest(wrappers.MoEDeployment(name).Profile(profile.Name)))
		Expect(err).NotTo(HaveOccurred())
		var report struct {
			OK       bool
			Split    v1alpha1.SplitStatus
			Profiles []v1alpha1.ProfileStatus
		}
		Expect(json.Unmarshal([]byte(out), &report)).To(Succeed())
		Expect(report.OK).To(BeTrue())
		Expect(report.Split.Ratio).To(Equal("2:3"))
		Expect(report.Profiles[0].Name).To(Equal(profile.Name))

		var list v1alpha1.MoEDeploymentList
		Expect(k8s.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
		Expect(list.Items).To(BeEmpty())
	})

	It("plans a running deployment with what its instances were made from", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		w.settle(ctx, name)
		out, err := run(ctx, cluster.NewPlan(), "--server", "--objects", "-f", manifest(wrappers.MoEDeployment(name).Namespace(w.namespace)))
		Expect(err).NotTo(HaveOccurred())
		for _, pod := range w.pods(ctx, name) {
			Expect(out).To(ContainSubstring("image: " + pod.Spec.Containers[0].Image))
		}
		Expect(out).NotTo(ContainSubstring("(the operator's"), "where a default image is unknown")
	})

	It("says what the API server would refuse", func(ctx context.Context) {
		_, err := run(ctx, cluster.NewPlan(), "--server", "-f", manifest(wrappers.MoEDeployment(name).GPUs(0, 0)))
		Expect(err).To(MatchError(And(ContainSubstring("would refuse"), ContainSubstring("gpus"))))
	})

	It("says that the model does not fit", func(ctx context.Context) {
		profile := wrappers.GPUProfile("small-" + w.namespace).Memory(1 << 20).Obj()
		Expect(k8s.Create(ctx, profile)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(k8s.Delete(ctx, profile)).To(Succeed()) })
		out, err := run(ctx, cluster.NewPlan(), "--server", "-f", manifest(wrappers.MoEDeployment(name).Profile(profile.Name)))
		var infeasible cluster.Infeasible
		Expect(errors.As(err, &infeasible)).To(BeTrue(), "%v", err)
		Expect(out).To(And(ContainSubstring("would NOT be made"), ContainSubstring("MemoryExceeded")))
	})

	It("lists revisions with what changed, and goes back to one", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		w.settle(ctx, name)
		w.change(ctx, name, func(s *v1alpha1.MoEDeploymentSpec) { s.Images.Server = "findep/server:2" })
		w.settle(ctx, name)
		Expect(rollout(ctx, "history", name)).To(ContainSubstring("images.server (unset) -> findep/server:2"))

		By("trying it first")
		Expect(rollout(ctx, "undo", name, "--dry-run")).To(ContainSubstring("nothing was changed"))
		Expect(w.get(ctx, name).Spec.Images.Server).To(Equal("findep/server:2"))

		Expect(rollout(ctx, "undo", name)).To(ContainSubstring("goes back to revision 1"))
		Expect(w.get(ctx, name).Spec.Images.Server).To(BeEmpty())
		w.settle(ctx, name)
		Expect(rollout(ctx, "history", name, "--revision", "3")).NotTo(ContainSubstring("findep/server:2"))
		_, err := run(ctx, cluster.NewRollout(), "undo", name, "--to-revision", "9")
		Expect(err).To(MatchError(ContainSubstring("no revision 9; kept are 2, 3")))
	})

	It("does not go back to a config.json that the ConfigMap no longer holds", func(ctx context.Context) {
		config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "model", Namespace: w.namespace},
			Data: map[string]string{"config.json": liteConfig()}}
		Expect(k8s.Create(ctx, config)).To(Succeed())
		w.create(ctx, wrappers.MoEDeployment(name).ConfigFrom("model"))
		w.settle(ctx, name)
		config.Data["config.json"] += "\n"
		Expect(k8s.Update(ctx, config)).To(Succeed())
		w.settle(ctx, name)
		_, err := run(ctx, cluster.NewRollout(), "undo", name)
		Expect(err).To(MatchError(ContainSubstring("ConfigMap model has changed since revision 1")))
	})

	It("pauses and resumes", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		rollout(ctx, "pause", name)
		Expect(w.get(ctx, name).Spec.Rollout.Paused).To(Equal(v1alpha1.Enabled))
		rollout(ctx, "resume", name)
		Expect(w.get(ctx, name).Spec.Rollout.Paused).To(Equal(v1alpha1.Disabled))
	})

	It("says how far a rollout is, and how the deployment is doing", func(ctx context.Context) {
		w.create(ctx, wrappers.MoEDeployment(name))
		Expect(rollout(ctx, "status", name, "--watch=false")).To(ContainSubstring("Waiting for the operator"))
		w.settle(ctx, name)
		Expect(rollout(ctx, "status", name, "--watch=false")).To(ContainSubstring("Waiting: 0 of 1 instances serve"))
		out, err := run(ctx, cluster.NewStatus(showNothing), name)
		Expect(err).NotTo(HaveOccurred())
		Expect(out).To(And(ContainSubstring("Available is False"), ContainSubstring("INSTANCE")))
		_, err = run(ctx, cluster.NewRollout(), "status", "absent")
		Expect(err).To(MatchError(ContainSubstring(`no MoEDeployment "absent"`)))
	})
})

func showNothing(io.Writer, *v1alpha1.MoEDeployment) error { return nil }
