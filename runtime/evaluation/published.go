// SPDX-License-Identifier: Apache-2.0

package evaluation

import (
	"bytes"
	_ "embed" // the published numbers
	"encoding/json"
	"fmt"

	"github.com/findep/findep-operator/runtime/solver"
)

//go:embed published.json
var publishedJSON []byte

// The tables of the paper that compare FinDEP with PPPipe.
const (
	// OfflineTable (Table 5) has the best configuration of each scheme for
	// prompts of one length.
	OfflineTable = 5
	// OnlineTable (Table 6) has FinDEP, which adapts, against a PPPipe
	// configuration tuned for 2048 tokens.
	OnlineTable = 6
)

// Testbed is a machine of the paper's Table 2, with what section 5 ran on it.
type Testbed struct {
	// Name is the paper's letter, GPU its description.
	Name string `json:"name"`
	GPU  string `json:"gpu"`
	GPUs int    `json:"gpus"`
	// Profile and Link name the datasheet presets that a fit starts from.
	Profile string `json:"profile"`
	Link    string `json:"link"`
	// Layers is the depth that each model was reduced to.
	Layers map[string]int `json:"layers"`
	// Online is the fixed split (ag, eg) of the online study.
	Online map[string][2]int `json:"online"`
}

// Split is the split of the online study.
func (t *Testbed) Split(model string) solver.Split {
	s := t.Online[model]
	return solver.Split{Attention: s[0], Expert: s[1]}
}

// Cell is one comparison: a cell of Table 5 or 6, whose column is the testbed
// and whose row is the model with a number of tokens (of a prompt in Table 5;
// arriving on average in Table 6).
type Cell struct {
	Table   int    `json:"table"`
	Model   string `json:"model"`
	Tokens  int    `json:"tokens"`
	Testbed string `json:"testbed"`
	// PPPipe and FinDEP are throughputs in thousand tokens per second. (The
	// paper prints tokens per second, which cannot be: its 6,144 tokens would
	// take 30 seconds for two layers.)
	PPPipe float64 `json:"pppipe"`
	FinDEP float64 `json:"findep"`
	// Printed is the speed-up that stands beside them.
	Printed float64 `json:"printed"`
	// Misprint says what is wrong with the cell; such cells are left out.
	Misprint string `json:"misprint,omitempty"`
}

// Gain is FinDEP's throughput relative to PPPipe's.
func (c *Cell) Gain() float64 { return c.FinDEP / c.PPPipe }

// Published is what the paper reports.
type Published struct {
	Source   string    `json:"source"`
	Testbeds []Testbed `json:"testbeds"`
	Cells    []Cell    `json:"cells"`
}

// Paper returns the published numbers.
func Paper() (*Published, error) {
	d := json.NewDecoder(bytes.NewReader(publishedJSON))
	d.DisallowUnknownFields()
	var p Published
	if err := d.Decode(&p); err != nil {
		return nil, fmt.Errorf("published.json: %w", err)
	}
	return &p, nil
}

// Of returns the cells of one table and testbed in the paper's order.
func (p *Published) Of(table int, testbed string) []Cell {
	var cells []Cell
	for _, c := range p.Cells {
		if c.Table == table && c.Testbed == testbed {
			cells = append(cells, c)
		}
	}
	return cells
}
