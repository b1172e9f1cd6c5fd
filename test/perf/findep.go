// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// findep is the operator: the program that `make build` makes.
type findep struct {
	// gang says that each instance is placed as a gang.
	gang    bool
	path    string
	metrics int
	pprof   int
}

func (*findep) groups() schema.GroupVersionKind {
	return v1alpha1.GroupVersion.WithKind("MoEDeployment")
}
func (*findep) writers() []string { return []string{userSubject} }

func (*findep) available(o *unstructured.Unstructured) bool {
	return conditionTrue(o, v1alpha1.ConditionAvailable)
}

func (s *findep) install(ctx context.Context, b *bench) error {
	if err := applyFiles(ctx, b.client, filepath.Join(b.root, "config/crd/bases/*.yaml")); err != nil {
		return err
	}
	s.path = b.plane.path("manager")
	build := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", s.path, "./cmd/manager")
	build.Dir, build.Stderr = b.root, os.Stderr
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the manager: %w", err)
	}
	ports, err := freePorts(2)
	if err != nil {
		return err
	}
	s.metrics, s.pprof = ports[0], ports[1]
	return s.start(ctx, b)
}

// start starts the manager and waits until it works.
func (s *findep) start(ctx context.Context, b *bench) (err error) {
	args := []string{
		"--metrics-bind-address=127.0.0.1:" + strconv.Itoa(s.metrics), "--health-probe-bind-address=0",
		"--kube-api-qps=" + strconv.Itoa(clientQPS), "--kube-api-burst=" + strconv.Itoa(2*clientQPS),
	}
	if b.profile != "" {
		args = append(args, "--pprof-bind-address=127.0.0.1:"+strconv.Itoa(s.pprof))
	}
	if b.manager, err = b.plane.runAt(s.path, []string{"KUBECONFIG=" + b.plane.kubeconfig(userSubject)}, append(args, b.managerArgs...)...); err != nil {
		return err
	}
	_, err = until(ctx, "the manager starts", time.Minute, b.plane.alive, func() (bool, string) {
		v, err := s.metric(ctx, "controller_runtime_active_workers")
		return err == nil && v >= 0, fmt.Sprint(err)
	})
	return err
}

func (s *findep) apply(ctx context.Context, b *bench, i int) error {
	attention := int32(b.pods * 3 / 8)
	placement := v1alpha1.PlacementSpec{Gang: v1alpha1.GangRequired}
	if !s.gang {
		placement.Gang = v1alpha1.GangOff
	}
	if !b.topology {
		placement.Topology.Instance = v1alpha1.TopologyNone
	}
	return b.client.Create(ctx, &v1alpha1.MoEDeployment{
		ObjectMeta: metav1.ObjectMeta{Name: groupName(i), Namespace: namespace},
		Spec: v1alpha1.MoEDeploymentSpec{
			Model: v1alpha1.ModelSpec{
				Name: "deepseek-ai/DeepSeek-V2-Lite", Source: v1alpha1.ModelSource{URI: "oci://localhost/weights:1"},
				MaxContextTokens: 4096,
			},
			Placement: placement,
			GPUs:      v1alpha1.GPUSpec{Attention: attention, Expert: int32(b.pods) - attention},
		},
	})
}

// metric adds up the series of one metric of the manager.
func (s *findep) metric(ctx context.Context, name string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", s.metrics), nil)
	if err != nil {
		return 0, err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = answer.Body.Close() }()
	sum, found := 0.0, false
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		series, value, _ := strings.Cut(lines.Text(), " ")
		if series != name && !strings.HasPrefix(series, name+"{") {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, err
		}
		sum, found = sum+v, true
	}
	if !found {
		return 0, fmt.Errorf("the manager has no metric %s", name)
	}
	return sum, nil
}
