// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const chart = "../../charts/findep-operator"

// helm finds the pinned helm in the cache of tools, else the one on the PATH.
func helm(t *testing.T) string {
	t.Helper()
	cache := os.Getenv("FINDEP_CACHE")
	if home, err := os.UserHomeDir(); cache == "" && err == nil {
		cache = filepath.Join(home, ".cache", "findep")
	}
	for _, name := range []string{filepath.Join(cache, "bin", "helm"), "helm"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("there is no helm: neither in the cache of tools (make tools) nor on the PATH")
	return ""
}

// template renders the chart; output is what helm says.
func template(t *testing.T, values ...string) (objects []unstructured.Unstructured, output string, err error) {
	t.Helper()
	args := []string{"template", "findep", chart, "--namespace", "findep-system"}
	for _, v := range values {
		args = append(args, "--set", v)
	}
	out, err := exec.CommandContext(t.Context(), helm(t), args...).CombinedOutput()
	if err != nil {
		return nil, string(out), err
	}
	for _, doc := range regexp.MustCompile(`(?m)^---\n`).Split(string(out), -1) {
		var o unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
			t.Fatalf("not YAML: %v\n%s", err, doc)
		}
		if len(o.Object) > 0 {
			objects = append(objects, o)
		}
	}
	return objects, string(out), nil
}

// kinds lists kind/name of everything but CRDs, without the release's name.
func kinds(objects []unstructured.Unstructured) []string {
	var list []string
	for _, o := range objects {
		if o.GetKind() != "CustomResourceDefinition" {
			list = append(list, o.GetKind()+strings.TrimPrefix(o.GetName(), "findep-operator"))
		}
	}
	slices.Sort(list)
	return list
}

// TestChartRenders renders the chart with each setting and checks what appears
// and what goes compared with the defaults.
func TestChartRenders(t *testing.T) {
	defaults, _, err := template(t)
	if err != nil {
		t.Fatal(err)
	}
	base := kinds(defaults)
	cases := map[string]struct{ values, more, less []string }{
		"defaults":            {},
		"two replicas":        {values: []string{"replicas=2"}, more: []string{"PodDisruptionBudget"}},
		"two, no budget":      {values: []string{"replicas=2", "manager.podDisruptionBudget=false"}},
		"no network policy":   {values: []string{"manager.networkPolicy=false"}, less: []string{"NetworkPolicy"}},
		"no metrics":          {values: []string{"metrics.enabled=false"}, less: []string{"Pod-test", "Service-metrics"}},
		"service monitor":     {values: []string{"metrics.serviceMonitor.enabled=true"}, more: []string{"ServiceMonitor"}},
		"monitor, no metrics": {values: []string{"metrics.enabled=false", "metrics.serviceMonitor.enabled=true"}, less: []string{"Pod-test", "Service-metrics"}},
		"pod monitor":         {values: []string{"metrics.podMonitor.enabled=true"}, more: []string{"PodMonitor-instances"}},
		"alerts":              {values: []string{"metrics.prometheusRule.enabled=true"}, more: []string{"PrometheusRule"}},
		"dashboards":          {values: []string{"metrics.dashboards.enabled=true"}, more: []string{"ConfigMap-dashboard-instances", "ConfigMap-dashboard-operator"}},
		"no service account":  {values: []string{"serviceAccount.create=false"}, less: []string{"ServiceAccount"}},
		"no rights to users":  {values: []string{"rbac.aggregate=false"}, less: []string{"ClusterRole-editor", "ClusterRole-viewer"}},
		"namespaced": {
			values: []string{"scope.mode=Namespaced", "metrics.podMonitor.enabled=true"}, more: []string{"PodMonitor-instances", "Role", "RoleBinding"},
			less: []string{"ClusterRole", "ClusterRole-cluster-reader", "ClusterRoleBinding", "ClusterRoleBinding-cluster-reader"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			objects, output, err := template(t, tc.values...)
			if err != nil {
				t.Fatal(output)
			}
			want := slices.DeleteFunc(slices.Concat(base, tc.more), func(k string) bool { return slices.Contains(tc.less, k) })
			slices.Sort(want)
			if got := kinds(objects); !slices.Equal(got, want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		})
	}
}

func TestChartRefusesWrongValues(t *testing.T) {
	for name, tc := range map[string]struct{ value, want string }{
		"misspelt":     {"metrics.podMonitors.enabled=true", "podMonitors"},
		"interval":     {"metrics.podMonitor.interval=often", "interval"},
		"scope":        {"scope.mode=Galaxy", "mode"},
		"replicas":     {"replicas=99", "replicas"},
		"not a switch": {"instances.networkPolicy=maybe", "networkPolicy"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, output, err := template(t, tc.value); err == nil || !strings.Contains(output, tc.want) {
				t.Errorf("got %v with %q, want a refusal that names %q", err, output, tc.want)
			}
		})
	}
}

// TestDashboardsAndAlertsNameRealMetrics reads every findep_ series that they
// refer to and looks for it in the source of the two programs that serve them.
func TestDashboardsAndAlertsNameRealMetrics(t *testing.T) {
	known := map[string]bool{}
	for path, pattern := range map[string]string{
		"../../runtime/agent/metrics.go":   `opts\("([a-z_]+)"`,
		"../../runtime/serving/metrics.go": `"findep_([a-z0-9_]+)"`,
	} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(b), -1) {
			known["findep_"+m[1]] = true
		}
	}
	files, err := filepath.Glob(chart + "/files/dashboards/*.json")
	if err != nil || len(files) != 2 {
		t.Fatalf("got %v, %v; want two dashboards", files, err)
	}
	for _, file := range append(files, chart+"/files/rules.yaml") {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, ".json") && !json.Valid(b) {
			t.Errorf("%s is not JSON", file)
		}
		for _, name := range regexp.MustCompile(`findep_[a-z0-9_]+`).FindAllString(string(b), -1) {
			trimmed := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
			if !known[name] && !known[trimmed] && !strings.HasPrefix(name, "findep_dev_") {
				t.Errorf("%s refers to %s, which nothing serves", filepath.Base(file), name)
			}
		}
	}
}
