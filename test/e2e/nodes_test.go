// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// systemNamespaces hold what instances need: the operator and the cluster's DNS.
var systemNamespaces = []string{operatorSpace, "kube-system"}

// nodesWithGPUs are the names of the nodes that pods can be placed on.
func nodesWithGPUs(ctx context.Context) []string {
	GinkgoHelper()
	var nodes corev1.NodeList
	Expect(k8s.List(ctx, &nodes)).To(Succeed())
	var names []string
	for _, n := range nodes.Items {
		if gpus := n.Status.Allocatable["nvidia.com/gpu"]; gpus.Value() > 0 && !n.Spec.Unschedulable {
			names = append(names, n.Name)
		}
	}
	return names
}

// changeNode changes a Node, which its kubelet and others write too.
func changeNode(ctx context.Context, name string, change func(*corev1.Node)) {
	GinkgoHelper()
	Expect(retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		var node corev1.Node
		if err := k8s.Get(ctx, types.NamespacedName{Name: name}, &node); err != nil {
			return err
		}
		before := node.DeepCopy()
		change(&node)
		return k8s.Patch(ctx, &node, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	})).To(Succeed(), "node %s", name)
}

// labelNode sets a label, or removes it if value is empty.
func labelNode(ctx context.Context, name, key, value string) {
	GinkgoHelper()
	changeNode(ctx, name, func(n *corev1.Node) {
		n.Labels[key] = value
		if value == "" {
			delete(n.Labels, key)
		}
	})
}

func cordon(ctx context.Context, name string, on bool) {
	GinkgoHelper()
	changeNode(ctx, name, func(n *corev1.Node) { n.Spec.Unschedulable = on })
}

// place are labels that say which groups may run on a node. A selector counts when
// a pod is scheduled only, so that labels can change once it runs.
var place = map[v1alpha1.Role]string{v1alpha1.RoleAttention: "e2e.findep.dev/attention", v1alpha1.RoleExpert: "e2e.findep.dev/expert"}

// placed lets the groups of a deployment run where the labels of place are.
func placed(d *v1alpha1.MoEDeployment) {
	d.Spec.Groups.Attention.NodeSelector = map[string]string{place[v1alpha1.RoleAttention]: "here"}
	d.Spec.Groups.Expert.NodeSelector = map[string]string{place[v1alpha1.RoleExpert]: "here"}
}

// allow lets a group run on exactly the given nodes.
func allow(ctx context.Context, role v1alpha1.Role, nodes ...string) {
	GinkgoHelper()
	for _, n := range nodesWithGPUs(ctx) {
		value := ""
		if slices.Contains(nodes, n) {
			value = "here"
		}
		labelNode(ctx, n, place[role], value)
	}
}

// forgetPlaces removes the labels of place.
func forgetPlaces(ctx context.Context) {
	GinkgoHelper()
	for role := range place {
		allow(ctx, role)
	}
}

// nodeOf is where the pod of a rank runs, and its name.
func nodeOf(ctx context.Context, name, instance string, role v1alpha1.Role) (node, pod string) {
	GinkgoHelper()
	for _, p := range podsOf(ctx, name) {
		if p.Labels[v1alpha1.LabelInstance] == instance && p.Labels[v1alpha1.LabelRole] == string(role) {
			return p.Spec.NodeName, p.Name
		}
	}
	Fail(fmt.Sprintf("deployment %s has no pod of role %s in instance %s", name, role, instance))
	return "", ""
}

// eventuallySystemRuns waits until operator and DNS run, on other nodes than the
// given one if there is one.
func eventuallySystemRuns(ctx context.Context, without string) {
	GinkgoHelper()
	Eventually(ctx, func(g Gomega) {
		for _, ns := range systemNamespaces {
			var deployments appsv1.DeploymentList
			g.Expect(k8s.List(ctx, &deployments, client.InNamespace(ns))).To(Succeed())
			for _, d := range deployments.Items {
				g.Expect(d.Status.AvailableReplicas).To(BeNumerically(">", 0), "deployment %s", d.Name)
			}
			var pods corev1.PodList
			g.Expect(k8s.List(ctx, &pods, client.InNamespace(ns))).To(Succeed())
			for _, p := range pods.Items {
				g.Expect(without == "" || p.Spec.NodeName != without).To(BeTrue(), "pod %s is on %s", p.Name, without)
			}
		}
	}).WithTimeout(availableWithin).WithPolling(pollEvery).Should(Succeed())
}

// watcher looks at the pods of a deployment all the time.
type watcher struct {
	stop   context.CancelFunc
	done   sync.WaitGroup
	looks  int
	broken []string
}

// watchInstances keeps each moment in which more than one instance was broken: it
// lacked a pod, or had one that was on its way out or had never been ready yet.
// Readiness as such comes and goes on a busy machine.
func watchInstances(name string, instances, size int) *watcher {
	ctx, stop := context.WithCancel(context.Background())
	w := &watcher{stop: stop}
	once := map[types.UID]bool{}
	w.done.Go(func() {
		for ; ctx.Err() == nil; time.Sleep(pollEvery / 5) {
			var pods corev1.PodList
			if k8s.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels{v1alpha1.LabelDeployment: name}) != nil {
				continue
			}
			whole := map[string]int{}
			for _, p := range pods.Items {
				once[p.UID] = once[p.UID] || podReady(&p)
				if p.DeletionTimestamp.IsZero() && once[p.UID] {
					whole[p.Labels[v1alpha1.LabelInstance]]++
				}
			}
			serving := 0
			for _, n := range whole {
				if n == size {
					serving++
				}
			}
			w.looks++
			if serving < instances-1 {
				w.broken = append(w.broken, fmt.Sprintf("%s: whole pods by instance %v", time.Now().Format(time.TimeOnly), whole))
			}
		}
	})
	return w
}

func podReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// expectOneAtATime stops watching.
func (w *watcher) expectOneAtATime() {
	GinkgoHelper()
	w.stop()
	w.done.Wait()
	Expect(w.looks).To(BeNumerically(">", 0))
	Expect(w.broken).To(BeEmpty(), "moments in which more than one instance was broken")
}

// command runs a program and shows what it prints.
func command(ctx context.Context, name string, args ...string) {
	GinkgoHelper()
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // the tests' own arguments
	out, err := cmd.CombinedOutput()
	GinkgoWriter.Printf("%s %q\n%s", name, args, out)
	Expect(err).NotTo(HaveOccurred(), "%s %q: %s", name, args, out)
}

// localcluster runs the program that made the cluster.
func localcluster(ctx context.Context, args ...string) {
	GinkgoHelper()
	command(ctx, os.Getenv("FINDEP_LOCALCLUSTER"), append(args, "--name", os.Getenv("FINDEP_CLUSTER"))...)
}

var _ = Describe("The drain of a node", Ordered, func() {
	const name = "drained"
	var drained string

	BeforeAll(func(ctx context.Context) {
		nodes := nodesWithGPUs(ctx)
		if len(nodes) < 2 {
			Skip("needs two nodes with GPUs")
		}
		// Of every instance one pod is on the node: the leader's, whose loss would
		// cost requests. If the operator is there too, it has to move as well.
		drained = nodes[0]
		allow(ctx, v1alpha1.RoleAttention, drained)
		allow(ctx, v1alpha1.RoleExpert, nodes[1:]...)
		DeferCleanup(forgetPlaces)
		create(ctx, tiny(name, 1, 1, placed, func(d *v1alpha1.MoEDeployment) { d.Spec.Replicas = ptr.To[int32](2) }))
		eventuallyReady(ctx, name, 2)
		allow(ctx, v1alpha1.RoleAttention, nodes...)
		allow(ctx, v1alpha1.RoleExpert, nodes...)
	})

	It("moves one instance at a time and loses no request", func(ctx context.Context) {
		before := podState(ctx, name)
		requests, instances := newClients(service(name)), watchInstances(name, 2, 2)
		DeferCleanup(func() { requests.stop(); instances.stop() })
		DeferCleanup(cordon, drained, false)
		command(ctx, "kubectl", "drain", drained, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=4m")
		eventuallyReady(ctx, name, 2)
		eventuallyAvailable(ctx, name)
		instances.expectOneAtATime()
		requests.expectNoLoss()
		for _, p := range podsOf(ctx, name) {
			Expect(p.Spec.NodeName).NotTo(Equal(drained), "pod %s", p.Name)
			if p.Labels[v1alpha1.LabelRole] == string(v1alpha1.RoleExpert) {
				Expect(before).To(HaveKeyWithValue(p.Name, HavePrefix(string(p.UID))), "a pod elsewhere stays")
			}
		}
	})

	It("is over when the node comes back: nothing moves by itself", func(ctx context.Context) {
		eventuallySystemRuns(ctx, "")
		before := podState(ctx, name)
		Consistently(ctx, func() map[string]string { return podState(ctx, name) }).
			WithTimeout(settle).WithPolling(pollEvery).Should(Equal(before))
		Eventually(ctx, func() string { return condition(ctx, name, v1alpha1.ConditionNodesHealthy) }).
			WithTimeout(changeWithin).WithPolling(pollEvery).Should(HavePrefix("True/"))
	})
})

// A node is only known to be lost when its lease has run out, and what ran on it
// may still run, so that a person has to say that it does not.
var _ = Describe("The loss of a node", Label("long"), func() {
	BeforeEach(func() {
		if os.Getenv("FINDEP_LOCALCLUSTER") == "" {
			Skip("only the local cluster's nodes can be switched off")
		}
	})

	DescribeTable("costs the other instance nothing", func(ctx context.Context, role v1alpha1.Role, rank int32) {
		name := fmt.Sprintf("lost-%d", rank)
		nodes := nodesWithGPUs(ctx)
		if len(nodes) < 2 {
			Skip("needs two nodes with GPUs")
		}
		kept, lost := nodes[0], nodes[len(nodes)-1]
		moveSystem(ctx, lost)

		By("having one instance on the node that stays, and one on both")
		allow(ctx, v1alpha1.RoleAttention, kept)
		allow(ctx, v1alpha1.RoleExpert, kept)
		DeferCleanup(forgetPlaces)
		create(ctx, tiny(name, 1, 1, placed))
		eventuallyReady(ctx, name, 1)
		allow(ctx, role, lost)
		scale(ctx, name, 2)
		eventuallyReady(ctx, name, 2)
		allow(ctx, role, kept, lost)
		node, gone := nodeOf(ctx, name, "1", role)
		Expect(node).To(Equal(lost))
		_, unharmed := nodeOf(ctx, name, "0", v1alpha1.RoleAttention)
		requests := newClients(leader(name, unharmed))
		DeferCleanup(requests.stop)

		By("switching it off")
		DeferCleanup(func(ctx context.Context) {
			localcluster(ctx, "up")
			outOfService(ctx, lost, false)
		})
		localcluster(ctx, "power-off", lost)
		accepted := make(chan string, 1)
		if role != v1alpha1.RoleAttention {
			// The leader lives, so that what it accepts now is only late.
			_, survivor := nodeOf(ctx, name, "1", v1alpha1.RoleAttention)
			go func() {
				text, err := leader(name, survivor).stream(context.WithoutCancel(ctx), references()[0], availableWithin)
				accepted <- fmt.Sprint(text, err)
			}()
		}
		Eventually(ctx, func(g Gomega) {
			status := current(ctx, name).Status
			g.Expect(status.ReadyReplicas).To(HaveValue(BeEquivalentTo(1)))
			g.Expect(status.Instances).To(ContainElement(And(
				HaveField("Index", BeEquivalentTo(1)), HaveField("MissingRanks", ContainElement(rank)))))
			g.Expect(condition(ctx, name, v1alpha1.ConditionNodesHealthy)).To(And(
				HavePrefix("False/"+v1alpha1.ReasonNodeNotReady), ContainSubstring("Node "+lost+" ")))
		}).WithTimeout(availableWithin).WithPolling(pollEvery).Should(Succeed())
		Expect(current(ctx, name).Status.Instances[0].ReadyPods).To(BeEquivalentTo(2))

		By("vouching for its being off")
		outOfService(ctx, lost, true)
		eventuallyReady(ctx, name, 2)
		node, again := nodeOf(ctx, name, "1", role)
		Expect([]string{node, again}).To(Equal([]string{kept, gone}))
		if role != v1alpha1.RoleAttention {
			Eventually(ctx, accepted).WithTimeout(changeWithin).Should(Receive(Equal(references()[0].GreedyText + "<nil>")))
		}
		_, second := nodeOf(ctx, name, "1", v1alpha1.RoleAttention)
		Expect(leader(name, second).ask(ctx, references()[1])).To(Equal(references()[1].GreedyText))

		By("switching it on again")
		before := podState(ctx, name)
		localcluster(ctx, "up")
		outOfService(ctx, lost, false)
		Eventually(ctx, func() string { return condition(ctx, name, v1alpha1.ConditionNodesHealthy) }).
			WithTimeout(changeWithin).WithPolling(pollEvery).Should(HavePrefix("True/"))
		Consistently(ctx, func() map[string]string { return podState(ctx, name) }).
			WithTimeout(settle).WithPolling(pollEvery).Should(Equal(before))
		requests.expectNoLoss()
	},
		Entry("and lets a leader finish what it has accepted", v1alpha1.RoleExpert, int32(1)),
		Entry("even if it takes a leader along", v1alpha1.RoleAttention, int32(0)),
	)
})

// outOfService says of a node that it is off for good, or takes that back.
func outOfService(ctx context.Context, name string, on bool) {
	GinkgoHelper()
	changeNode(ctx, name, func(n *corev1.Node) {
		n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
		if on {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute})
		}
	})
}

// moveSystem moves operator and DNS off a node.
func moveSystem(ctx context.Context, node string) {
	GinkgoHelper()
	cordon(ctx, node, true)
	DeferCleanup(cordon, node, false)
	for _, ns := range systemNamespaces {
		var pods corev1.PodList
		Expect(k8s.List(ctx, &pods, client.InNamespace(ns))).To(Succeed())
		for _, p := range pods.Items {
			if p.Spec.NodeName == node {
				Expect(k8s.Delete(ctx, &p)).To(Or(Succeed(), Satisfy(apierrors.IsNotFound)))
			}
		}
	}
	eventuallySystemRuns(ctx, node)
	cordon(ctx, node, false)
}

func scale(ctx context.Context, name string, replicas int32) {
	GinkgoHelper()
	d := current(ctx, name)
	changed := d.DeepCopy()
	changed.Spec.Replicas = &replicas
	Expect(k8s.Patch(ctx, changed, client.MergeFrom(d))).To(Succeed())
}
