// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/render"
	"github.com/findep/findep-operator/controllers/resolve"
)

// planOptions are the flags of the plan command.
type planOptions struct {
	file, output string
	server       bool
	objects      bool
	products     []string
}

// NewPlan is the command that shows what the operator would make of a
// MoEDeployment, and changes nothing.
func NewPlan() *cobra.Command {
	var o planOptions
	cmd := &cobra.Command{
		Use:   "plan -f FILE",
		Short: "Show what the operator would make of a MoEDeployment: fit, split, predictions and objects",
		Long: `Decides as the operator does, from the MoEDeployment in FILE and the ConfigMap and GPUProfiles
beside it, and prints whether it fits, the split and its alternatives, the predicted time to first
token, time per output token and throughput, and with --objects every object of the first instance.

Without --server nothing but the file is read; --gpu-product then says which GPUs the nodes have.
With --server the object is sent to the API server as a dry run, so that its rules, defaults and
webhooks apply, and GPUProfiles, nodes and running instances of the cluster are taken into account.
Nothing is made either way.

Exit code 2 means bad input, 3 that nothing would be made because it does not fit.`,
		Example: "  findep plan -f deployment.yaml --gpu-product NVIDIA-H100-80GB-HBM3\n  kubectl findep plan -f deployment.yaml --server -o json",
		Args:    cobra.NoArgs,
	}
	a := newAccess(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return runPlan(cmd, a, &o) }
	f := cmd.Flags()
	f.StringVarP(&o.file, "file", "f", "", `MoEDeployment to plan; "-" is standard input`)
	f.StringVarP(&o.output, "output", "o", "table", "table, json or yaml")
	f.BoolVar(&o.server, "server", false, "ask the API server too (dry run)")
	f.BoolVar(&o.objects, "objects", false, "show the objects of the first instance")
	f.StringSliceVar(&o.products, "gpu-product", nil, "value of the nodes' label "+resolve.ProductLabel+", without --server")
	return cmd
}

func runPlan(cmd *cobra.Command, a *access, o *planOptions) error {
	write, err := writerOf(o.output)
	if err != nil {
		return err
	}
	if o.server && len(o.products) > 0 {
		return BadInput{errors.New("--gpu-product cannot be used with --server, which reads the nodes of the cluster")}
	}
	m, err := readManifest(o.file, cmd.InOrStdin())
	if err != nil {
		return err
	}
	var refused error
	for i := range m.deployments {
		p, err := planOf(cmd.Context(), a, m, &m.deployments[i], o)
		if err != nil {
			return err
		}
		if err := write(cmd.OutOrStdout(), p); err != nil {
			return err
		}
		if !p.OK && refused == nil {
			refused = Infeasible{p.Name, p.Message}
		}
	}
	return refused
}

func planOf(ctx context.Context, a *access, m *manifest, d *v1alpha1.MoEDeployment, o *planOptions) (*planReport, error) {
	if d.Name == "" {
		return nil, BadInput{errors.New("metadata.name of the MoEDeployment is missing")}
	}
	if d.Namespace == "" {
		d.Namespace = a.namespace()
	}
	facts, notes := offlineFacts(m, d, o.products), []string{"Rules of the API server were not checked; --server does."}
	if o.server {
		c, err := a.open()
		if err != nil {
			return nil, err
		}
		if d, err = dryRun(ctx, c, d); err != nil {
			return nil, err
		}
		config, err := a.rest()
		if err != nil {
			return nil, err
		}
		ask, err := discovery.NewDiscoveryClientForConfig(config)
		if err != nil {
			return nil, err
		}
		if facts, notes, err = serverFacts(ctx, c, ask, m, d); err != nil {
			return nil, err
		}
	}
	r := resolve.Resolve(d, facts)
	p := newPlanReport(d, r, notes)
	if o.objects && r.OK() {
		objects, err := objectsOf(d, r)
		if err != nil {
			return nil, err
		}
		p.Objects = objects
	}
	return p, nil
}

// dryRun sends the object to the API server, which answers with what it would
// store and stores nothing.
func dryRun(ctx context.Context, c client.Client, d *v1alpha1.MoEDeployment) (*v1alpha1.MoEDeployment, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(d)
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{Object: content}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("MoEDeployment"))
	unstructured.RemoveNestedField(u.Object, "status")
	err = c.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.DryRunAll, fieldOwner, client.ForceOwnership)
	if err != nil {
		return nil, fmt.Errorf("the API server would refuse MoEDeployment %s: %w", d.Name, err)
	}
	var out v1alpha1.MoEDeployment
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// objectsOf are the objects of a deployment and its first instance. The content
// of certificates is left out: it is made when they are.
func objectsOf(d *v1alpha1.MoEDeployment, r *resolve.Result) ([]any, error) {
	owner := render.Owner{Namespace: d.Namespace, Name: d.Name, UID: d.UID}
	objects := []any{render.RanksService(d.Namespace), render.LeaderService(owner)}
	instance, err := render.Instance(owner, 0, r)
	if err != nil {
		return nil, err
	}
	return append(objects, instance...), nil
}

// printObjects writes YAML documents.
func printObjects(out io.Writer, objects []any) error {
	for _, o := range objects {
		text, err := toYAML(o)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "---\n%s", text); err != nil {
			return err
		}
	}
	return nil
}
