// SPDX-License-Identifier: Apache-2.0

// Package cluster holds the commands of findep that deal with MoEDeployment
// objects: what would be made of one (plan), how one is doing (status), and its
// revisions (rollout). They use the flags and the kubeconfig of kubectl, whose
// plugin findep is when it is installed as kubectl-findep.
package cluster

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// fieldOwner owns the fields that these commands change.
const fieldOwner = client.FieldOwner("kubectl-findep")

// BadInput marks errors that the user's input is the cause of.
type BadInput struct{ Err error }

func (e BadInput) Error() string { return e.Err.Error() }

// Unwrap returns the error itself.
func (e BadInput) Unwrap() error { return e.Err }

// Infeasible says that what was asked for cannot be had; the command has
// printed why.
type Infeasible struct{ Name, Message string }

func (e Infeasible) Error() string { return fmt.Sprintf("infeasible: %s: %s", e.Name, e.Message) }

// access reaches the API server. The client is made on first use, so that what
// needs no cluster needs no kubeconfig.
type access struct {
	rules     clientcmd.ClientConfigLoadingRules
	overrides clientcmd.ConfigOverrides
}

// newAccess adds kubectl's flags that say which cluster and namespace is meant.
func newAccess(cmd *cobra.Command) *access {
	a := &access{rules: *clientcmd.NewDefaultClientConfigLoadingRules()}
	names := clientcmd.RecommendedConfigOverrideFlags("")
	f := cmd.PersistentFlags()
	f.StringVar(&a.rules.ExplicitPath, clientcmd.RecommendedConfigPathFlag, "", "kubeconfig file (default: $KUBECONFIG, ~/.kube/config)")
	names.CurrentContext.BindStringFlag(f, &a.overrides.CurrentContext)
	names.ContextOverrideFlags.Namespace.BindStringFlag(f, &a.overrides.Context.Namespace)
	names.AuthOverrideFlags.Impersonate.BindStringFlag(f, &a.overrides.AuthInfo.Impersonate)
	return a
}

// oneDeployment requires the name of a MoEDeployment as the only argument.
func oneDeployment(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return BadInput{fmt.Errorf("%s needs the name of one MoEDeployment, and was given %d; kubectl get moed lists them", cmd.CommandPath(), len(args))}
	}
	return nil
}

func (a *access) config() clientcmd.ClientConfig {
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(&a.rules, &a.overrides)
}

// open makes the client.
func (a *access) open() (client.Client, error) {
	config, err := a.rest()
	if err != nil {
		return nil, err
	}
	return client.New(config, client.Options{Scheme: newScheme()})
}

// rest is the configuration that clients are made from.
func (a *access) rest() (*rest.Config, error) {
	config, err := a.config().ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, BadInput{fmt.Errorf("no cluster is named by %s: set KUBECONFIG, or pass --kubeconfig", strings.Join(a.config().ConfigAccess().GetLoadingPrecedence(), ", "))}
	}
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	return config, nil
}

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	// Both only fail on types that are registered twice.
	_ = clientgoscheme.AddToScheme(s)
	_ = v1alpha1.AddToScheme(s)
	return s
}

// namespace is the one of the flags or of the kubeconfig's context.
func (a *access) namespace() string {
	if namespace, _, err := a.config().Namespace(); err == nil && namespace != "" {
		return namespace
	}
	return corev1.NamespaceDefault
}

// get reads a MoEDeployment.
func (a *access) get(ctx context.Context, c client.Client, name string) (*v1alpha1.MoEDeployment, error) {
	var d v1alpha1.MoEDeployment
	err := c.Get(ctx, types.NamespacedName{Namespace: a.namespace(), Name: name}, &d)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("there is no MoEDeployment %q in namespace %q; kubectl get moed --all-namespaces lists them", name, a.namespace())
	}
	if err != nil {
		return nil, fmt.Errorf("read MoEDeployment %s: %w", name, err)
	}
	return &d, nil
}
