// SPDX-License-Identifier: Apache-2.0

package profile

import (
	"embed"
	"fmt"
	"strings"
)

//go:embed presets/*.json
var presetFiles embed.FS

// Presets lists the names of the built-in profiles in alphabetical order.
func Presets() []string {
	entries, err := presetFiles.ReadDir("presets")
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".json"))
	}
	return names
}

// Preset returns a fresh copy of a built-in profile; case does not matter. Presets are not
// calibrated: they let a plan be made before anything was measured.
func Preset(name string) (*Profile, error) {
	data, err := presetFiles.ReadFile("presets/" + strings.ToLower(name) + ".json")
	if err != nil {
		return nil, fmt.Errorf("profile %q is not built in (%s); give a measured profile instead", name, strings.Join(Presets(), ", "))
	}
	return Decode(data)
}
