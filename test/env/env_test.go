// SPDX-License-Identifier: Apache-2.0

package env_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/findep/findep-operator/hack/localcluster/binaries"
	"github.com/findep/findep-operator/test/env"
)

func TestMain(m *testing.M) {
	// Without a logger, envtest prints a stack trace as a warning.
	log.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

func TestRunServesNamespacesAndGangScheduling(t *testing.T) {
	client, err := kubernetes.NewForConfig(env.Run(t, env.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	namespaces, err := client.CoreV1().Namespaces().List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, n := range namespaces.Items {
		names[n.Name] = true
	}
	if !names["default"] {
		t.Errorf("namespaces = %v, want default among them", names)
	}
	version, err := client.Discovery().ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	if version.GitVersion != binaries.KubernetesVersion {
		t.Errorf("server version = %s, want %s", version.GitVersion, binaries.KubernetesVersion)
	}
	for group, kind := range map[string]string{
		"scheduling.k8s.io/v1beta1":  "PodGroup",
		"scheduling.k8s.io/v1alpha3": "CompositePodGroup",
	} {
		resources, err := client.Discovery().ServerResourcesForGroupVersion(group)
		if err != nil {
			t.Errorf("%s is not served: %v", group, err)
			continue
		}
		var kinds []string
		for _, r := range resources.APIResources {
			kinds = append(kinds, r.Kind)
		}
		if !strings.Contains(strings.Join(kinds, " "), kind) {
			t.Errorf("%s serves %v, want %s among them", group, kinds, kind)
		}
	}
}

func TestStartRefusesAMissingCRDPath(t *testing.T) {
	_, _, err := env.Start(context.Background(), env.Options{CRDPaths: []string{"does-not-exist"}})
	if err == nil || !strings.Contains(err.Error(), "does-not-exist") {
		t.Fatalf("error = %v, want one that names does-not-exist", err)
	}
}
