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

// aliases are other usual names of the presets.
var aliases = map[string]string{
	"rtx-a6000": "a6000",
	"h100":      "h100-sxm",
}

// Preset returns a fresh copy of a built-in profile; case does not matter. Presets are not
// calibrated: they let a plan be made before anything was measured.
func Preset(name string) (*Profile, error) {
	file := strings.ToLower(name)
	if other, ok := aliases[file]; ok {
		file = other
	}
	data, err := presetFiles.ReadFile("presets/" + file + ".json")
	if err != nil {
		return nil, fmt.Errorf("profile %q is not built in (%s); give a measured profile instead", name, strings.Join(Presets(), ", "))
	}
	return Decode(data)
}
