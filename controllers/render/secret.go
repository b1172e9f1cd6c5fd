// SPDX-License-Identifier: Apache-2.0

package render

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/plan"
)

// Keys of an instance's Secret beside the files that pods mount.
const (
	authorityPrefix = "authority."
	firstRevision   = "first-revision.json"
)

// leafKeys are the certificate's, under the names of the files in pods.
var leafKeys = []string{identity.CAFile, identity.CertFile, identity.KeyFile}

// SecretContent is what the Secret of one instance holds. Configuration and
// certificate are in one object, and for instance 0 also what belongs to the
// deployment as a whole, because each object is a write, and a watch event for
// everybody who looks, for every deployment that is made.
type SecretContent struct {
	// Instance is the configuration, which sidecars and server read, Revision the
	// one that it is of, and Decision what it was made from. Empty if there is none.
	Instance           []byte
	Revision, Decision string
	// Leaf is the certificate of the instance's ranks.
	Leaf map[string][]byte
	// Authority is what certs.Authority keeps. Only instance 0's Secret has it.
	Authority map[string][]byte
	// First is the deployment's first revision, as FirstRevision writes it, as long
	// as there is no other. Only instance 0's Secret has it.
	First []byte
}

// Configured says that there is a configuration, so that the instance exists.
func (c *SecretContent) Configured() bool { return len(c.Instance) > 0 }

// Configure takes up the configuration of an instance.
func (c *SecretContent) Configure(in *Input, instance *plan.Instance) error {
	if err := instance.Validate(); err != nil {
		return fmt.Errorf("instance %d would not be readable by its own pods: %w", in.Index, err)
	}
	content, err := json.MarshalIndent(instance, "", "  ")
	if err != nil {
		return fmt.Errorf("instance %d: %w", in.Index, err)
	}
	decision, err := json.Marshal(in.Decision)
	if err != nil {
		return fmt.Errorf("instance %d: %w", in.Index, err)
	}
	c.Instance, c.Revision, c.Decision = content, in.Revision, string(decision)
	return nil
}

// Forget drops what is the instance's own and keeps what is the deployment's.
func (c *SecretContent) Forget() {
	*c = SecretContent{Authority: c.Authority, First: c.First}
}

// ReadSecret is the opposite of Secret; nil is an absent one.
func ReadSecret(s *corev1.Secret) SecretContent {
	if s == nil {
		return SecretContent{}
	}
	c := SecretContent{
		Instance: s.Data[plan.InstanceFile], First: s.Data[firstRevision],
		Revision: s.Labels[v1alpha1.LabelRevision], Decision: s.Annotations[v1alpha1.AnnotationDecision],
		Leaf: map[string][]byte{}, Authority: map[string][]byte{},
	}
	for _, key := range leafKeys {
		if value, found := s.Data[key]; found {
			c.Leaf[key] = value
		}
	}
	for key, value := range s.Data {
		if name, found := strings.CutPrefix(key, authorityPrefix); found {
			c.Authority[name] = value
		}
	}
	return c
}

// Secret holds what the ranks of an instance are told and prove themselves with.
// Pods mount the files that they need and no others.
func Secret(owner Owner, index int32, c SecretContent) *corev1ac.SecretApplyConfiguration {
	s := corev1ac.Secret(SecretName(owner.Name, index), owner.Namespace).
		WithLabels(DeploymentLabels(owner.Name)).
		WithOwnerReferences(owner.reference()).
		WithType(corev1.SecretTypeOpaque)
	data := maps.Clone(c.Leaf)
	if data == nil {
		data = map[string][]byte{}
	}
	if c.Configured() {
		s.WithLabels(map[string]string{
			v1alpha1.LabelInstance: strconv.Itoa(int(index)), v1alpha1.LabelRevision: c.Revision,
		}).WithAnnotations(map[string]string{v1alpha1.AnnotationDecision: c.Decision})
		data[plan.InstanceFile] = c.Instance
	}
	for name, value := range c.Authority {
		data[authorityPrefix+name] = value
	}
	if len(c.First) > 0 {
		data[firstRevision] = c.First
	}
	return s.WithData(data)
}

// FirstRevision is a deployment's first revision. It stays in the Secret of
// instance 0 until there is a second one: most deployments never have one, and a
// ControllerRevision would be one more object for each of them.
type FirstRevision struct {
	Revision string         `json:"revision"`
	Intent   resolve.Intent `json:"intent"`
}
