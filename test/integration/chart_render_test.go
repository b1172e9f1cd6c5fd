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

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/test/wrappers"
)

const chart = "../../charts/findep-operator"

func helm(t *testing.T) string { return tool(t, "helm") }

// tool finds a pinned tool in the cache of tools, else the one on the PATH.
func tool(t *testing.T, tool string) string {
	t.Helper()
	cache := os.Getenv("FINDEP_CACHE")
	if home, err := os.UserHomeDir(); cache == "" && err == nil {
		cache = filepath.Join(home, ".cache", "findep")
	}
	for _, name := range []string{filepath.Join(cache, "bin", tool), tool} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skipf("there is no %s: neither in the cache of tools (make tools) nor on the PATH", tool)
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
	hooks := []string{"Service-webhook", "ValidatingWebhookConfiguration"}
	ownCertificates := []string{
		"ClusterRole-webhook-configuration", "ClusterRoleBinding-webhook-configuration", "Role-webhook-certificate", "RoleBinding-webhook-certificate",
	}
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
		"webhooks off":        {values: []string{"webhooks.mode=disabled"}, less: slices.Concat(hooks, ownCertificates)},
		"webhooks with cert-manager": {
			values: []string{"webhooks.mode=certManager"}, more: []string{"Certificate-webhook", "Certificate-webhook-ca", "Issuer-webhook", "Issuer-webhook-ca"}, less: ownCertificates,
		},
		"webhooks with an issuer of the company": {
			values: []string{"webhooks.mode=certManager", "webhooks.certManager.issuerRef.name=corporate"}, more: []string{"Certificate-webhook"}, less: ownCertificates,
		},
		"no roles": {
			values: []string{"rbac.create=false"},
			less: append(slices.Clone(ownCertificates), "ClusterRole", "ClusterRole-cluster-reader", "ClusterRole-editor", "ClusterRole-viewer",
				"ClusterRoleBinding", "ClusterRoleBinding-cluster-reader", "Role-leader-election", "RoleBinding-leader-election"),
		},
		"no rights to users": {values: []string{"rbac.aggregate=false"}, less: []string{"ClusterRole-editor", "ClusterRole-viewer"}},
		"namespaced": {
			values: []string{"scope.mode=Namespaced", "metrics.podMonitor.enabled=true"}, more: []string{"PodMonitor-instances", "Role", "RoleBinding"},
			less: slices.Concat(hooks, ownCertificates, []string{"ClusterRole", "ClusterRole-cluster-reader", "ClusterRoleBinding", "ClusterRoleBinding-cluster-reader"}),
		},
		"namespaced with cert-manager": {
			values: []string{"scope.mode=Namespaced", "webhooks.mode=certManager"}, more: []string{"Role", "RoleBinding", "Certificate-webhook", "Certificate-webhook-ca", "Issuer-webhook", "Issuer-webhook-ca"},
			less: append(slices.Clone(ownCertificates), "ClusterRole", "ClusterRole-cluster-reader", "ClusterRoleBinding", "ClusterRoleBinding-cluster-reader"),
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

// TestChartImages shows the images that the manager hands to instances.
func TestChartImages(t *testing.T) {
	for name, tc := range map[string]struct{ values, want []string }{
		"defaults": {nil, []string{"--runtime-image=findep/runtime:0.2.0", "--runtime-cuda-image=findep/runtime-cuda:0.2.0", "--server-image=findep/server:0.2.0"}},
		"registry and tags": {[]string{"images.registry=r.example/x", "images.tag=v1", "images.runtimeCUDA.tag=v1-sm90"},
			[]string{"--runtime-image=r.example/x/runtime:v1", "--runtime-cuda-image=r.example/x/runtime-cuda:v1-sm90", "--server-image=r.example/x/server:v1"}},
		"one image for all": {[]string{"images.runtimeCUDA.repository=", "images.runtime.repository=all"},
			[]string{"--runtime-image=findep/all:0.2.0", "--server-image=findep/server:0.2.0"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, output, err := template(t, tc.values...)
			if err != nil {
				t.Fatal(output)
			}
			if got := regexp.MustCompile(`--[a-z-]+-image=\S+`).FindAllString(output, -1); !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestChartRefusesWrongValues(t *testing.T) {
	for name, tc := range map[string]struct{ value, want string }{
		"misspelt":               {"metrics.podMonitors.enabled=true", "'/metrics': additional properties 'podMonitors' not allowed"},
		"misspelt at the top":    {"image.tag=v1", "additional properties 'image' not allowed"},
		"interval":               {"metrics.podMonitor.interval=often", "'/metrics/podMonitor/interval': 'often' does not match"},
		"scope":                  {"scope.mode=Galaxy", "'/scope/mode': value must be one of 'Cluster', 'Namespaced'"},
		"one namespace, no list": {"scope.namespaces=a", "'/scope/namespaces': got string, want array"},
		"no name of a namespace": {"scope.namespaces={a,B_c}", "'/scope/namespaces/1': 'B_c' does not match"},
		"a namespace twice":      {"scope.namespaces={a,a}", "'/scope/namespaces': items at 0 and 1 are equal"},
		"replicas":               {"replicas=99", "'/replicas': maximum"},
		"replicas in words":      {"replicas=two", "'/replicas': got string, want integer"},
		"webhooks":               {"webhooks.mode=certmanager", "'/webhooks/mode': value must be one of 'selfManaged', 'certManager', 'disabled'"},
		"failures":               {"webhooks.failurePolicy=Panic", "'/webhooks/failurePolicy': value must be one of"},
		"an issuer without name": {"webhooks.certManager.issuerRef.kind=ClusterIssuer", "'name' required, if 'kind' exists"},
		"not a switch":           {"instances.networkPolicy=maybe", "'/instances/networkPolicy': got string, want boolean"},
		"a switch, no settings":  {"metrics.serviceMonitor=true", "'/metrics/serviceMonitor': got boolean, want object"},
		"a tag with the name":    {"images.manager.tag=manager:v1", "'/images/manager/tag': 'manager:v1' does not match"},
		"a secret as an object":  {"images.pullSecrets[0].name=x", "'/images/pullSecrets/0': got object, want string"},
		"no name for objects":    {"fullnameOverride=My_Operator", "'/fullnameOverride': 'My_Operator' does not match"},
		"no name of an account":  {"serviceAccount.name=A b", "'/serviceAccount/name': 'A b' does not match"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, output, err := template(t, tc.value); err == nil || !strings.Contains(output, tc.want) {
				t.Errorf("got %v with %q, want a refusal that names %q", err, output, tc.want)
			}
		})
	}
}

// TestChartWebhooks shows how the webhooks are wired in each mode: what the API
// server calls, and the part of the manager that answers.
func TestChartWebhooks(t *testing.T) {
	for name, values := range map[string][]string{
		"self-managed": nil,
		"cert-manager": {"webhooks.mode=certManager", "webhooks.failurePolicy=Fail", "webhooks.namespaceSelector.matchLabels.models=yes", "webhooks.port=10250"},
		"namespaced":   {"webhooks.mode=certManager", "scope.mode=Namespaced", "scope.namespaces={a,b}", "webhooks.certManager.issuerRef.name=corporate", "webhooks.certManager.issuerRef.kind=ClusterIssuer"},
		"disabled":     {"webhooks.mode=disabled"},
	} {
		t.Run(name, func(t *testing.T) {
			objects, output, err := template(t, values...)
			if err != nil {
				t.Fatal(output)
			}
			var text strings.Builder
			for _, o := range objects {
				switch kind := o.GetKind(); {
				case kind == "Deployment":
					for _, path := range [][]string{{"args"}, {"ports"}, {"volumeMounts"}} {
						containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
						show(t, &text, path[0], containers[0].(map[string]any)[path[0]])
					}
					volumes, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "volumes")
					show(t, &text, "volumes", volumes)
				case kind == "NetworkPolicy":
					rules, _, _ := unstructured.NestedSlice(o.Object, "spec", "ingress")
					show(t, &text, "ingress", rules)
				case kind == "ValidatingWebhookConfiguration", kind == "Certificate", strings.HasSuffix(o.GetName(), "-webhook-certificate"),
					strings.HasSuffix(o.GetName(), "-webhook-configuration"), strings.HasSuffix(o.GetName(), "-webhook"), o.GetKind() == "Issuer":
					o.SetLabels(nil)
					show(t, &text, kind, o.Object)
				}
			}
			wrappers.Golden(t, "webhooks-"+name+".golden.yaml", text.String())
		})
	}
}

func show(t *testing.T, text *strings.Builder, name string, value any) {
	t.Helper()
	b, err := yaml.Marshal(map[string]any{name: value})
	if err != nil {
		t.Fatal(err)
	}
	text.Write(b)
}

// TestChartNotes shows what helm prints after an installation, and that the
// manifest in it is one, as it stands: people paste it.
func TestChartNotes(t *testing.T) {
	for name, values := range map[string]string{
		"defaults":     "replicas=1",
		"namespaced":   "scope.mode=Namespaced,scope.namespaces={models}",
		"cert-manager": "webhooks.mode=certManager,metrics.enabled=false,crds.keep=false",
		"bare":         "webhooks.mode=disabled,crds.enabled=false",
	} {
		t.Run(name, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), helm(t), "install", "findep", chart, "--namespace", "findep-system", "--dry-run=client", "--set", values).CombinedOutput()
			_, notes, found := strings.Cut(string(out), "\nNOTES:\n")
			if err != nil || !found {
				t.Fatalf("%v: %s", err, out)
			}
			wrappers.Golden(t, "notes-"+name+".golden.txt", notes)
			_, manifest, _ := strings.Cut(notes, "<<EOF\n")
			manifest, _, found = strings.Cut(manifest, "\nEOF\n")
			var d v1alpha1.MoEDeployment
			if err := yaml.UnmarshalStrict([]byte(manifest), &d); err != nil || !found || d.Spec.GPUs.Total != 8 {
				t.Errorf("no manifest that ends in a line of its own: %v\n%s", err, manifest)
			}
		})
	}
}

// TestChartCleansUp: the objects that the manager and cert-manager make beside
// the chart's have hooks of the same names, which delete them at the end.
func TestChartCleansUp(t *testing.T) {
	objects, output, err := template(t, "fullnameOverride=x", "replicas=2")
	if err != nil {
		t.Fatal(output)
	}
	var hooks []string
	for _, o := range objects {
		if a := o.GetAnnotations(); a["helm.sh/hook"] == "post-delete" {
			if a["helm.sh/hook-delete-policy"] != "before-hook-creation,hook-succeeded" {
				t.Errorf("%s %s stays, or does not replace what is there: %v", o.GetKind(), o.GetName(), a)
			}
			hooks = append(hooks, o.GetNamespace()+" "+o.GetKind()+" "+o.GetName())
		}
	}
	slices.Sort(hooks)
	want := []string{"findep-system Lease x.findep.dev", "findep-system Secret x-webhook-ca", "findep-system Secret x-webhook-cert", "findep-system Secret x-webhook-tls"}
	if !slices.Equal(hooks, want) {
		t.Errorf("got %q, want %q", hooks, want)
	}
	for _, made := range []string{"--webhook-secret=x-webhook-cert", "--leader-elect-lease=x.findep.dev"} {
		if !strings.Contains(output, made) {
			t.Errorf("nothing says %s any more", made)
		}
	}
}

// TestEveryReleaseElectsItsOwnLeader: of two releases in one namespace, which
// work in namespaces of their own, neither waits for the other's Lease.
func TestEveryReleaseElectsItsOwnLeader(t *testing.T) {
	for name, tc := range map[string]struct{ values, want []string }{
		"one replica": {nil, nil},
		// It is what version 0.1.0 used: an upgrade has one leader at any time.
		"the name in the documentation": {[]string{"replicas=2"}, []string{"--leader-elect-lease=findep-operator.findep.dev"}},
		"one release":                   {[]string{"replicas=2", "scope.mode=Namespaced", "fullnameOverride=a"}, []string{"--leader-elect-lease=a.findep.dev"}},
		"another one":                   {[]string{"replicas=2", "scope.mode=Namespaced", "fullnameOverride=b"}, []string{"--leader-elect-lease=b.findep.dev"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, output, err := template(t, tc.values...)
			if err != nil {
				t.Fatal(output)
			}
			if got := regexp.MustCompile(`--leader-elect-lease=\S+`).FindAllString(output, -1); !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// TestKustomizationNamesAgree: what is written out in the flags of the manager
// must be what kustomize makes of the other names.
func TestKustomizationNamesAgree(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), tool(t, "kustomize"), "build", "../../config/default").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	flag := func(name string) string {
		t.Helper()
		m := regexp.MustCompile("--webhook-" + name + "=(\\S+)").FindSubmatch(out)
		if m == nil {
			t.Fatalf("the manager has no flag --webhook-%s", name)
		}
		return string(m[1])
	}
	names := map[string]bool{}
	for _, doc := range strings.Split(string(out), "\n---\n") {
		var o unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
			t.Fatal(err)
		}
		names[o.GetKind()+" "+o.GetNamespace()+" "+o.GetName()] = true
	}
	for _, want := range []string{
		"Service " + flag("namespace") + " " + flag("service"), "ValidatingWebhookConfiguration  " + flag("configuration"),
		"Deployment " + flag("namespace") + " findep-manager",
	} {
		if !names[want] {
			t.Errorf("there is no %s", want)
		}
	}
	for _, right := range []string{"- " + flag("secret"), "- " + flag("configuration"), "name: " + flag("service")} {
		if !strings.Contains(string(out), right+"\n") {
			t.Errorf("nothing says %q", right)
		}
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

// TestEveryWayToFailHasAnAlert lists the series in which instances and the
// operator show that they fail.
func TestEveryWayToFailHasAnAlert(t *testing.T) {
	b, err := os.ReadFile(chart + "/files/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, series := range []string{
		"findep_formed", "findep_epoch", "findep_epoch_failures_total", "findep_recovery_seconds_bucket", "findep_step_failures_total",
		"findep_predicted_step_seconds", "findep_requests_refused_total", "findep_kv_cache_usage_ratio", "controller_runtime_reconcile_errors_total",
	} {
		if !regexp.MustCompile(`expr:.*\b` + series + `\b`).Match(b) {
			t.Errorf("no alert looks at %s", series)
		}
	}
}
