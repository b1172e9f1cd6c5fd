// SPDX-License-Identifier: Apache-2.0

package model

import (
	"embed"
	"fmt"
	"maps"
	"slices"
	"strings"
)

//go:embed catalogue/*.json
var catalogueFiles embed.FS

// catalogue maps the published name of a model to its embedded config.json.
var catalogue = map[string]string{
	"deepseek-ai/DeepSeek-V2-Lite": "deepseek-v2-lite",
	"deepseek-ai/DeepSeek-V2":      "deepseek-v2",
	"deepseek-ai/DeepSeek-V3":      "deepseek-v3",
	"Qwen/Qwen3-30B-A3B":           "qwen3-30b-a3b",
	"Qwen/Qwen3-235B-A22B":         "qwen3-235b-a22b",
}

// Names lists the catalogue in alphabetical order.
func Names() []string { return slices.Sorted(maps.Keys(catalogue)) }

// ByName returns a published model from the built-in catalogue. The error for
// an unknown name lists the known ones.
func ByName(name string) (*Shape, error) {
	config, err := ConfigByName(name)
	if err != nil {
		return nil, err
	}
	s, err := Parse(config)
	if err != nil {
		return nil, fmt.Errorf("built-in model %q: %w", name, err)
	}
	s.Name = name
	return s, nil
}

// ConfigByName returns the config.json of a catalogue model.
func ConfigByName(name string) ([]byte, error) {
	file, ok := catalogue[name]
	if !ok {
		return nil, fmt.Errorf("model %q is not in the built-in catalogue (%s); give its config.json instead",
			name, strings.Join(Names(), ", "))
	}
	return catalogueFiles.ReadFile("catalogue/" + file + ".json")
}
