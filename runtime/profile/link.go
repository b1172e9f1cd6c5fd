// SPDX-License-Identifier: Apache-2.0

package profile

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

//go:embed links.json
var linkFile []byte

// LinkPreset is a built-in interconnect, for planning with GPUs that are
// joined by another link than their profile's.
type LinkPreset struct {
	// Name says what it is, for example "NVLink 4".
	Name string `json:"name"`
	// Calibrated is false: the numbers come from a datasheet.
	Calibrated bool `json:"calibrated"`
	// GigabytesPerSecond is the peak per GPU and direction, in 10^9 bytes.
	GigabytesPerSecond float64 `json:"gigabytesPerSecond"`
	// Source says where the numbers come from.
	Source string `json:"source"`
	// Transfer is the linear model.
	Transfer Transfer `json:"transfer"`
}

// Links lists the names of the built-in links in alphabetical order.
func Links() []string {
	links, err := decodeLinks()
	if err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(links))
}

// Link returns a built-in link; case does not matter. The error for an unknown
// name lists the known ones.
func Link(name string) (LinkPreset, error) {
	links, err := decodeLinks()
	if err != nil {
		return LinkPreset{}, err
	}
	l, ok := links[strings.ToLower(name)]
	if !ok {
		return LinkPreset{}, fmt.Errorf("link %q is not built in (%s)", name, strings.Join(Links(), ", "))
	}
	return l, nil
}

func decodeLinks() (map[string]LinkPreset, error) {
	d := json.NewDecoder(bytes.NewReader(linkFile))
	d.DisallowUnknownFields()
	var links map[string]LinkPreset
	if err := d.Decode(&links); err != nil {
		return nil, fmt.Errorf("built-in links: %w", err)
	}
	return links, nil
}

// WithLink returns a copy of the profile whose GPUs are joined by another link.
// It is as calibrated as the less calibrated of the two.
func (p *Profile) WithLink(l LinkPreset) *Profile {
	c := *p
	c.Link = l.Transfer
	c.Calibrated = p.Calibrated && l.Calibrated
	c.Source += " Link: " + l.Source
	return &c
}
