// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// killEnv asks for the operator to be killed throughout: a seed, or "random".
// Every spec must pass all the same, since what the operator has begun its
// successor goes on with.
const killEnv = "FINDEP_E2E_KILL"

// Pauses between two kills: shorter than most of what the specs wait for, so that
// they meet the operator at every point of its work.
const (
	killAfterLeast = 5 * time.Second
	killAfterMost  = 20 * time.Second
)

// killer kills the operator again and again.
type killer struct {
	seed             uint64
	random           *rand.Rand
	stop             context.CancelFunc
	done             sync.WaitGroup
	signals, deleted int
}

// startKiller begins if the environment asks for it, and ends with the suite.
func startKiller() {
	GinkgoHelper()
	value := os.Getenv(killEnv)
	if value == "" {
		return
	}
	seed, err := strconv.ParseUint(value, 10, 32)
	if value == "random" {
		seed, err = uint64(time.Now().UnixNano()&0xffffffff), nil
	}
	Expect(err).NotTo(HaveOccurred(), "%s=%q: give a number up to %d, or random", killEnv, value, uint32(1<<32-1))
	ctx, stop := context.WithCancel(context.Background())
	k := &killer{seed: seed, random: rand.New(rand.NewPCG(seed, 0)), stop: stop} //nolint:gosec // To be repeated, not to be secret.
	fmt.Printf("Killing the operator at random: %s=%d repeats the choices\n", killEnv, seed)
	k.done.Go(func() { k.run(ctx) })
	DeferCleanup(k.finish)
}

func (k *killer) run(ctx context.Context) {
	for {
		pause := killAfterLeast + time.Duration(k.random.Int64N(int64(killAfterMost-killAfterLeast)))
		bySignal := k.random.IntN(2) == 0
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if err := k.kill(ctx, bySignal); err != nil && ctx.Err() == nil {
			GinkgoWriter.Printf("%s: killing the operator: %v\n", time.Now().Format(time.TimeOnly), err)
		}
	}
}

// kill ends the operator without a chance to finish anything: by a signal to its
// process, after which the kubelet starts it again in its pod, or by removing the
// pod by force, after which the next one may run beside it for a moment.
func (k *killer) kill(ctx context.Context, bySignal bool) error {
	var pods corev1.PodList
	err := k8s.List(ctx, &pods, client.InNamespace(operatorSpace),
		client.MatchingLabels{v1alpha1.LabelComponent: v1alpha1.ComponentManager})
	if err != nil {
		return err
	}
	for _, p := range pods.Items {
		how := "removed"
		if bySignal && patient(&p) && signalProcesses(&p) {
			how = "signalled"
			k.signals++
		} else if err := k8s.Delete(ctx, &p, client.GracePeriodSeconds(0)); err != nil {
			return err
		} else {
			k.deleted++
		}
		GinkgoWriter.Printf("%s: operator %s %s\n", time.Now().Format(time.TimeOnly), p.Name, how)
	}
	return nil
}

// patient says that the kubelet starts a pod's container again soon: with every
// crash it waits twice as long, up to minutes, which would leave the specs without
// an operator.
func patient(pod *corev1.Pod) bool {
	for _, c := range pod.Status.ContainerStatuses {
		if c.RestartCount >= 2 {
			return false
		}
	}
	return true
}

// signalProcesses kills the operator's processes in a pod, which it finds by their
// cgroup. It reports whether there was one: the pod may run on another machine.
func signalProcesses(pod *corev1.Pod) bool {
	files, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	found := false
	for _, file := range files {
		group, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(group, []byte(pod.UID)) {
			continue
		}
		dir := filepath.Dir(file)
		name, err := os.ReadFile(filepath.Join(dir, "comm"))
		pid, notNumber := strconv.Atoi(filepath.Base(dir))
		if err != nil || notNumber != nil || string(bytes.TrimSpace(name)) != "manager" {
			continue
		}
		found = syscall.Kill(pid, syscall.SIGKILL) == nil || found
	}
	return found
}

// finish lets the operator live, and checks that it was killed at all.
func (k *killer) finish(ctx context.Context) {
	GinkgoHelper()
	k.stop()
	k.done.Wait()
	fmt.Printf("The operator was killed %d times by signal and %d times with its pod (%s=%d)\n", k.signals, k.deleted, killEnv, k.seed)
	Expect(k.signals+k.deleted).To(BeNumerically(">", 0), "kills")
	eventuallySystemRuns(ctx, "")
}
