// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"crypto/sha256"
	"encoding/json"
	"sync"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

// memoLimit bounds the answers that are kept, of a few kilobytes each.
const memoLimit = 512

// memo keeps the solver's answers. Every pass over a deployment asks the same
// questions, and many deployments ask those of others; answering takes a
// millisecond. It changes no result: equal questions have equal answers.
type memo struct {
	mu      sync.Mutex
	answers map[[sha256.Size]byte]solver.Choice
}

var solved memo

// solve is solver.SolveModel. The answer is shared and must not be changed.
func (m *memo) solve(in *solver.Instance, split solver.Split, policy plan.Policy) (solver.Choice, error) {
	question, err := json.Marshal(struct {
		*solver.Instance
		Split  solver.Split
		Policy plan.Policy
	}{in, split, policy})
	if err != nil {
		// A number that JSON does not have; the solver says what it makes of it.
		return solver.SolveModel(in, split, policy)
	}
	key := sha256.Sum256(question)
	m.mu.Lock()
	known, found := m.answers[key]
	m.mu.Unlock()
	if found {
		return known, nil
	}
	answer, err := solver.SolveModel(in, split, policy)
	if err != nil {
		return answer, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.answers == nil || len(m.answers) >= memoLimit {
		m.answers = map[[sha256.Size]byte]solver.Choice{}
	}
	m.answers[key] = answer
	return answer, nil
}
