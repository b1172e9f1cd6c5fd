// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"fmt"
	"path"
	"strings"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// SourceKind is the way a model's files get into a pod.
type SourceKind string

// The kinds of source.
const (
	SourcePVC      SourceKind = "pvc"
	SourceImage    SourceKind = "oci"
	SourceHostPath SourceKind = "hostpath"
	SourceHub      SourceKind = "hf"
)

// Source is a parsed model.source.
type Source struct {
	Kind SourceKind `json:"kind"`
	// Reference is the claim's name, the image, the absolute host directory or
	// the hub's model name.
	Reference string `json:"reference"`
	// SubPath is the directory below the volume's root; empty means the root.
	SubPath string `json:"subPath,omitempty"`
}

// ParseSource reads model.source. The API server's rules have already refused
// what has no known scheme; this also holds where they are not installed.
func ParseSource(s v1alpha1.ModelSource) (Source, error) {
	scheme, rest, ok := strings.Cut(s.URI, "://")
	if !ok || rest == "" {
		return Source{}, fmt.Errorf("model.source.uri %q must be pvc://CLAIM/PATH, oci://IMAGE, hostpath:///PATH or hf://ORGANISATION/MODEL", s.URI)
	}
	for part := range strings.SplitSeq(rest+"/"+s.Path, "/") {
		if part == ".." {
			return Source{}, fmt.Errorf("model.source.uri %q and path %q must not contain '..'", s.URI, s.Path)
		}
	}
	source := Source{Kind: SourceKind(scheme), Reference: rest, SubPath: s.Path}
	switch source.Kind {
	case SourcePVC:
		claim, below, _ := strings.Cut(rest, "/")
		source.Reference, source.SubPath = claim, strings.Trim(path.Join(below, s.Path), "/")
	case SourceHostPath:
		if !strings.HasPrefix(rest, "/") {
			return Source{}, fmt.Errorf("model.source.uri %q must name an absolute directory, as in hostpath:///models/x", s.URI)
		}
		source.Reference, source.SubPath = path.Join(rest, s.Path), ""
	case SourceImage, SourceHub:
	default:
		return Source{}, fmt.Errorf("model.source.uri %q has the unknown scheme %q; use pvc, oci, hostpath or hf", s.URI, scheme)
	}
	return source, nil
}
