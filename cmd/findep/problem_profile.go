// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/findep/findep-operator/runtime/profile"
	"github.com/findep/findep-operator/runtime/solver"
)

// profileInput is one profile by name, with another link if wanted, or inline.
type profileInput struct {
	Name      string          `json:"name"`
	Link      string          `json:"link"`
	Inline    json.RawMessage `json:"inline"`
	Attention json.RawMessage `json:"attention"`
	Expert    json.RawMessage `json:"expert"`
}

// parseProfiles reads one profile for both groups or one for each.
func parseProfiles(raw json.RawMessage) (solver.Profiles, error) {
	both, err := decodeProfile("profile", raw)
	if err != nil {
		return solver.Profiles{}, err
	}
	if len(both.Attention) == 0 && len(both.Expert) == 0 {
		p, err := both.resolve("profile")
		return solver.Profiles{Attention: p, Expert: p}, err
	}
	if both.Name != "" || both.Link != "" || len(both.Inline) > 0 {
		return solver.Profiles{}, errors.New("profile.attention and profile.expert contradict profile.name, profile.link and profile.inline: give one for both groups or one for each")
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
		if *g.to, err = in.resolve(g.field); err != nil {
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

func (in *profileInput) resolve(field string) (*profile.Profile, error) {
	var p *profile.Profile
	var err error
	switch {
	case in.Name != "" && len(in.Inline) > 0:
		return nil, fmt.Errorf("%s.inline contradicts %s.name: give one of them", field, field)
	case len(in.Inline) > 0:
		field += ".inline"
		p, err = profile.Decode(in.Inline)
	default:
		field += ".name"
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
		return nil, fmt.Errorf("%s: %w", strings.TrimSuffix(strings.TrimSuffix(field, ".name"), ".inline")+".link", err)
	}
	return p.WithLink(l), nil
}
