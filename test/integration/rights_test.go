// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// unusedRights are granted and not seen in the test, each for a reason.
var unusedRights = map[string]string{
	"update findep.dev moedeployments/finalizers":   "asked for by admission of owner references that block deletion, not by a request",
	"patch events.k8s.io events":                    "only when an event repeats for minutes",
	"get scheduling.k8s.io workloads":               "only for groups that must each be in one domain; the specs of placement do that",
	"create scheduling.k8s.io workloads":            "as above",
	"patch scheduling.k8s.io workloads":             "as above",
	"delete scheduling.k8s.io workloads":            "as above",
	"get scheduling.k8s.io compositepodgroups":      "as above",
	"create scheduling.k8s.io compositepodgroups":   "as above",
	"patch scheduling.k8s.io compositepodgroups":    "as above",
	"delete scheduling.k8s.io compositepodgroups":   "as above",
	"get scheduling.volcano.sh podgroups":           "only with Volcano; the specs of placement do that",
	"create scheduling.volcano.sh podgroups":        "as above",
	"patch scheduling.volcano.sh podgroups":         "as above",
	"delete scheduling.volcano.sh podgroups":        "as above",
	"get resource.k8s.io resourceclaimtemplates":    "only with groups.*.deviceClaim; the specs of placement do that",
	"create resource.k8s.io resourceclaimtemplates": "as above",
	"patch resource.k8s.io resourceclaimtemplates":  "as above",
	"delete resource.k8s.io resourceclaimtemplates": "as above",
	"delete apps controllerrevisions":               "only after more than ten revisions; the specs of the reconciler do that",
	"delete policy poddisruptionbudgets":            "only when they are switched off; the specs of the reconciler do that",
	"delete networking.k8s.io networkpolicies":      "only when they are switched off, or with a namespace's last deployment; other specs do that",
	"delete  services":                              "only with a namespace's last deployment; other specs do that",
	"get  configmaps":                               "only with model.configFrom; the specs of the reconciler do that",
}

// impliedVerbs are rights that another one's use shows to be needed: a cache
// watches, lists where a server cannot stream the initial state, and gets what
// it holds; the apply of an absent object is a patch that asks for create too.
var impliedVerbs = map[string]string{"get": "watch", "list": "watch", "create": "patch"}

// usedRights records what a client asks of the API server.
type usedRights struct {
	mu      sync.Mutex
	seen    map[string]bool
	granted []string
}

// restricted is a client configuration with the rights in config/rbac/role.yaml.
func restricted(ctx context.Context, used *usedRights) *rest.Config {
	GinkgoHelper()
	const user = "findep-manager"
	b, err := os.ReadFile("../../config/rbac/role.yaml")
	Expect(err).NotTo(HaveOccurred())
	for _, doc := range strings.Split(string(b), "---\n")[1:] {
		var role rbacv1.ClusterRole
		Expect(yaml.Unmarshal([]byte(doc), &role)).To(Succeed())
		used.grant(role.Rules)
		binding := &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: role.Name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
		}
		Expect(k8s.Create(ctx, &role)).To(Succeed())
		Expect(k8s.Create(ctx, binding)).To(Succeed())
	}
	c := rest.CopyConfig(config)
	c.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:authenticated"}}
	c.Wrap(func(next http.RoundTripper) http.RoundTripper { return recorder{next, used} })
	return c
}

func (u *usedRights) grant(rules []rbacv1.PolicyRule) {
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					u.granted = append(u.granted, fmt.Sprintf("%s %s %s", verb, group, resource))
				}
			}
		}
	}
}

// missing lists the rights that are granted and were neither used nor excused.
func (u *usedRights) missing() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var list []string
	for _, right := range u.granted {
		verb, rest, _ := strings.Cut(right, " ")
		if u.seen[right] || unusedRights[right] != "" || u.seen[impliedVerbs[verb]+" "+rest] {
			continue
		}
		list = append(list, right)
	}
	slices.Sort(list)
	return list
}

type recorder struct {
	next http.RoundTripper
	used *usedRights
}

// RoundTrip implements http.RoundTripper.
func (r recorder) RoundTrip(q *http.Request) (*http.Response, error) {
	r.used.mu.Lock()
	if r.used.seen == nil {
		r.used.seen = map[string]bool{}
	}
	r.used.seen[rightOf(q)] = true
	r.used.mu.Unlock()
	return r.next.RoundTrip(q)
}

// rightOf is the right that a request needs, as in "list apps controllerrevisions".
func rightOf(q *http.Request) string {
	parts := strings.Split(strings.Trim(q.URL.Path, "/"), "/")
	group := ""
	switch {
	case len(parts) > 2 && parts[0] == "api":
		parts = parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		group, parts = parts[1], parts[3:]
	default:
		return "discovery"
	}
	if len(parts) > 2 && parts[0] == "namespaces" {
		parts = parts[2:]
	}
	resource, named := parts[0], len(parts) > 1
	if len(parts) > 2 {
		resource += "/" + parts[2]
	}
	verb := map[string]string{
		http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete", http.MethodGet: "list",
	}[q.Method]
	switch {
	case q.URL.Query().Get("watch") != "":
		verb = "watch"
	case q.Method == http.MethodGet && named:
		verb = "get"
	}
	return fmt.Sprintf("%s %s %s", verb, group, resource)
}
