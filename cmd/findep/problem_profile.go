// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
	"github.com/findep/findep-operator/runtime/profile"
	"github.com/findep/findep-operator/runtime/solver"
)

// profileInput is one profile by name, inline or in a file, with another link
// if wanted. Inline and in a file it may also be a GPUProfile, as findep
// calibrate and kubectl get write it.
type profileInput struct {
	Name      string          `json:"name"`
	Link      string          `json:"link"`
	Inline    json.RawMessage `json:"inline"`
	File      string          `json:"file"`
	Attention json.RawMessage `json:"attention"`
	Expert    json.RawMessage `json:"expert"`
}

// parseProfiles reads one profile for both groups or one for each.
func parseProfiles(raw json.RawMessage, dir string) (solver.Profiles, error) {
	both, err := decodeProfile("profile", raw)
	if err != nil {
		return solver.Profiles{}, err
	}
	if len(both.Attention) == 0 && len(both.Expert) == 0 {
		p, err := both.resolve("profile", dir)
		return solver.Profiles{Attention: p, Expert: p}, err
	}
	if both.Name != "" || both.Link != "" || both.File != "" || len(both.Inline) > 0 {
		return solver.Profiles{}, errors.New("profile.attention and profile.expert contradict profile.name, profile.link, profile.file and profile.inline: give one for both groups or one for each")
	}
	var ps solver.Profiles
	for _, g := range []struct {
		field string
		raw   json.RawMessage
		to    **profile.Profile
	}{{"profile.attention", both.Attention, &ps.Attention}, {"profile.expert", both.Expert, &ps.Expert}} {
		in, err := decodeProfile(g.field, g.raw)
		if err != nil {
			return solver.Profiles{}, err
		}
		if len(in.Attention) > 0 || len(in.Expert) > 0 {
			return solver.Profiles{}, fmt.Errorf("%s: unknown field \"attention\" or \"expert\"", g.field)
		}
		if *g.to, err = in.resolve(g.field, dir); err != nil {
			return solver.Profiles{}, err
		}
	}
	return ps, nil
}

func decodeProfile(field string, raw json.RawMessage) (*profileInput, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, fmt.Errorf("%s is missing: name a built-in profile (%s) or give %s.inline", field, strings.Join(profile.Presets(), ", "), field)
	}
	in := &profileInput{}
	return in, decodeStrict(field, raw, in)
}

func (in *profileInput) resolve(group, dir string) (*profile.Profile, error) {
	given := 0
	for _, set := range []bool{in.Name != "", in.File != "", len(in.Inline) > 0} {
		if set {
			given++
		}
	}
	if given > 1 {
		return nil, fmt.Errorf("%[1]s.inline, %[1]s.name and %[1]s.file contradict each other: give one of them", group)
	}
	var p *profile.Profile
	var err error
	field := group + ".name"
	switch {
	case len(in.Inline) > 0:
		field = group + ".inline"
		p, err = decodeAnyProfile(in.Inline)
	case in.File != "":
		field = group + ".file"
		p, err = readProfile(in.File, dir)
	default:
		p, err = profile.Preset(in.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	if in.Link == "" {
		return p, nil
	}
	l, err := profile.Link(in.Link)
	if err != nil {
		return nil, fmt.Errorf("%s.link: %w", group, err)
	}
	return p.WithLink(l), nil
}

// readProfile reads a file in YAML or JSON; a relative path is below dir.
func readProfile(path, dir string) (*profile.Profile, error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	text, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	data, err := toJSON(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return decodeAnyProfile(data)
}

// decodeAnyProfile decodes a profile or a GPUProfile.
func decodeAnyProfile(data []byte) (*profile.Profile, error) {
	var kind metav1.TypeMeta
	if json.Unmarshal(data, &kind) != nil || kind.Kind == "" {
		return profile.Decode(data)
	}
	if kind.Kind != "GPUProfile" || kind.APIVersion != v1alpha1.GroupVersion.String() {
		return nil, fmt.Errorf("kind is %s of %s: need a GPUProfile of %s", kind.Kind, kind.APIVersion, v1alpha1.GroupVersion)
	}
	var g v1alpha1.GPUProfile
	if err := decodeStrict("", data, &g); err != nil {
		return nil, err
	}
	p := resolve.Convert(&g)
	return p, p.Validate()
}
