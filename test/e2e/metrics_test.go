// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// onlyAfterFailures are series that are not there before something fails.
var onlyAfterFailures = []string{"findep_step_failures_total"}

// metricName finds what a query looks at: a name before a selector, a range, a
// bracket or an operator. Names of functions and labels have no such prefix.
var metricName = regexp.MustCompile(`\b(findep|controller_runtime|workqueue|rest_client|process|go)_[a-z0-9_]+`)

// watched are the series that the chart's dashboards and alerts look at.
func watched() []string {
	GinkgoHelper()
	files, err := filepath.Glob(presentChart + "/files/dashboards/*.json")
	Expect(err).NotTo(HaveOccurred())
	Expect(files).NotTo(BeEmpty())
	var names []string
	for _, file := range append(files, presentChart+"/files/rules.yaml") {
		b, err := os.ReadFile(file)
		Expect(err).NotTo(HaveOccurred())
		for _, query := range regexp.MustCompile(`(?m)^.*\bexpr"?:.*$`).FindAllString(string(b), -1) {
			for _, name := range metricName.FindAllString(query, -1) {
				label := strings.HasPrefix(name, "findep_dev_")
				if !label && !slices.Contains(onlyAfterFailures, name) {
					names = append(names, name)
				}
			}
		}
	}
	Expect(names).To(ContainElements("findep_formed", "workqueue_depth"))
	slices.Sort(names)
	return slices.Compact(names)
}

// series are the names that pods serve on the ports that the chart's monitors
// scrape.
func series(ctx context.Context, pods []corev1.Pod) (map[string]bool, error) {
	known := map[string]bool{}
	for _, pod := range pods {
		var ports []int32
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			for _, p := range c.Ports {
				leader := pod.Labels[v1alpha1.LabelLeader] == "true"
				if p.Name == "metrics" || p.Name == "http" && leader {
					ports = append(ports, p.ContainerPort)
				}
			}
		}
		for _, port := range ports {
			text, err := clientset.CoreV1().RESTClient().Get().Namespace(pod.Namespace).Resource("pods").
				Name(fmt.Sprintf("%s:%d", pod.Name, port)).SubResource("proxy").Suffix("metrics").DoRaw(ctx)
			if err != nil {
				return nil, fmt.Errorf("port %d of pod %s: %w", port, pod.Name, err)
			}
			for line := range strings.Lines(string(text)) {
				if name := strings.FieldsFunc(line, func(r rune) bool { return r == '{' || r == ' ' }); !strings.HasPrefix(line, "#") && len(name) > 1 {
					known[name[0]] = true
				}
			}
		}
	}
	return known, nil
}
