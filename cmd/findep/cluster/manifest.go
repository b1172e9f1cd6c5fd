// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// maxManifestBytes bounds a manifest; the API server's own limit for one object
// is 3 MiB.
const maxManifestBytes = 16 << 20

// manifest is what a file describes. Documents of other kinds are left alone, as
// a file that is applied as a whole may hold anything.
type manifest struct {
	deployments []v1alpha1.MoEDeployment
	profiles    []v1alpha1.GPUProfile
	configs     []corev1.ConfigMap
}

// readManifest reads YAML or JSON documents from a file, or from in if the path
// is "-".
func readManifest(path string, in io.Reader) (*manifest, error) {
	if path == "" {
		return nil, BadInput{errors.New("no file is given; pass -f FILE, or -f - to read standard input")}
	}
	name := "standard input"
	if path != "-" {
		name = path
		f, err := os.Open(path) //nolint:gosec // the user's own file
		if err != nil {
			return nil, BadInput{err}
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxManifestBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > maxManifestBytes {
		return nil, BadInput{fmt.Errorf("%s has more than %d bytes", name, maxManifestBytes)}
	}
	m, err := parseManifest(data)
	if err != nil {
		return nil, BadInput{fmt.Errorf("%s: %w", name, err)}
	}
	return m, nil
}

func parseManifest(data []byte) (*manifest, error) {
	m := &manifest{}
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for number := 1; ; number++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", number, err)
		}
		if len(bytes.TrimSpace(document)) == 0 {
			continue
		}
		if err := m.add(document); err != nil {
			return nil, fmt.Errorf("document %d: %w", number, err)
		}
	}
	if len(m.deployments) == 0 {
		return nil, fmt.Errorf("there is no MoEDeployment (%s) in it", v1alpha1.GroupVersion)
	}
	return m, nil
}

func (m *manifest) add(document []byte) error {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(document, &kind); err != nil {
		return err
	}
	switch kind.APIVersion + "/" + kind.Kind {
	case v1alpha1.GroupVersion.String() + "/MoEDeployment":
		return decodeInto(&m.deployments, document)
	case v1alpha1.GroupVersion.String() + "/GPUProfile":
		return decodeInto(&m.profiles, document)
	case "v1/ConfigMap":
		return decodeInto(&m.configs, document)
	}
	return nil
}

// decodeInto appends a document to a list and refuses fields that the type does
// not have.
func decodeInto[T any](list *[]T, document []byte) error {
	var item T
	text, err := yaml.YAMLToJSONStrict(document)
	if err != nil {
		return err
	}
	unknown, err := kjson.UnmarshalStrict(text, &item)
	if err := errors.Join(append(unknown, err)...); err != nil {
		return err
	}
	*list = append(*list, item)
	return nil
}

// config finds a ConfigMap of the manifest. A document without a namespace is in
// that of the deployment, since both are applied together.
func (m *manifest) config(namespace, name string) *corev1.ConfigMap {
	for i := range m.configs {
		if c := &m.configs[i]; c.Name == name && (c.Namespace == "" || c.Namespace == namespace) {
			return c
		}
	}
	return nil
}
