// SPDX-License-Identifier: Apache-2.0

package evaluation

import (
	"context"

	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

// ChunkCase is a synthetic machine of two attention and two expert GPUs that
// prefills causally, with the shape of a published model.
type ChunkCase struct {
	// Qwen takes the shape of Qwen3-30B-A3B, otherwise DeepSeek-V2-Lite's.
	Qwen   bool
	Tokens int
	// Samples is R, the samples in flight on an attention GPU.
	Samples int
	// Link and Latency multiply the time per byte, and what is paid per launch
	// and transfer.
	Link, Latency float64
}

// ChunkCases are the rows of the table in docs/evaluation.md.
func ChunkCases() []ChunkCase {
	return []ChunkCase{
		{false, 1024, 1, 1, 1}, {false, 1024, 2, 1, 1}, {false, 1024, 4, 1, 1},
		{false, 8192, 1, 1, 1}, {false, 8192, 2, 1, 1},
		{true, 1024, 1, 1, 1}, {true, 8192, 1, 1, 1},
		{true, 4096, 1, 2.5, 1}, {true, 4096, 1, 1, 10}, {true, 4096, 2, 1, 10},
	}
}

// Problem is the stage form: 10 us per launch, 20 us per attention core and per
// transfer, 10 ps per multiply-accumulate of a GEMM and 20 ps of attention,
// 20 ps per byte.
func (c *ChunkCase) Problem() *solver.Problem {
	gemm, core, link, perMAC, perPair, perByte := 0.01*c.Latency, 0.02*c.Latency, 0.02*c.Latency, 1e-11, 2e-11, 2e-8*c.Link
	m, h, experts, topK, layers, local := 2048.0, 1408.0, 64.0, 6.0, 26, 32.0
	s := float64(c.Tokens)
	macs, heads := float64(2048*3072+2048*576+512*4096+2048*2048), 16*320.0
	shared := solver.Affine{Alpha: 3 * gemm, Beta: 3 * 2 * perMAC * s * m * h}
	if c.Qwen {
		h, experts, topK, layers, local = 768, 128, 8, 48, 64
		macs, heads = float64(2*2048*32*128+2*2048*4*128), 32*256.0
		shared = solver.Affine{}
	}
	transfer := solver.Affine{Alpha: link, Beta: perByte * 2 * local * m}
	return &solver.Problem{
		Stages: solver.Stages{
			Attention: solver.AttentionTime{Alpha: 4*gemm + core, Beta: perMAC * s * macs, Quadratic: perPair * s * s / 2 * heads},
			Shared:    shared,
			Expert:    solver.Affine{Alpha: 3 * gemm, Beta: 3 * local * perMAC * m * h},
			A2E:       transfer, E2A: transfer,
		},
		Layers: layers, AttentionGPUs: 2, SequenceTokens: c.Tokens, TokensPerExpertPerSample: 2 * topK * s / experts,
		Limits: solver.Limits{MaxSegments: 8, SamplesInFlight: c.Samples},
	}
}

// ChunkRow holds the best plan of each scheme for a case; chunked schemes may
// cut a sample into up to 16 chunks.
type ChunkRow struct {
	Case                                         ChunkCase
	PPPipe, FinDEP, ChunkedPPPipe, ChunkedFinDEP solver.Result
}

// OverPPPipe and OverFinDEP are the gains of chunked FinDEP over the schemes
// without chunks.
func (r *ChunkRow) OverPPPipe() float64 {
	return r.ChunkedFinDEP.TokensPerSecond / r.PPPipe.TokensPerSecond
}

// OverFinDEP is the gain over FinDEP without chunks.
func (r *ChunkRow) OverFinDEP() float64 {
	return r.ChunkedFinDEP.TokensPerSecond / r.FinDEP.TokensPerSecond
}

// SolveChunks solves a case for each scheme.
func SolveChunks(c ChunkCase) (*ChunkRow, error) {
	const most = 16
	row := &ChunkRow{Case: c}
	p := c.Problem()
	var w solver.Solver
	for _, scheme := range []struct {
		policy plan.Policy
		chunks int
		result *solver.Result
	}{{plan.PPPipe, 1, &row.PPPipe}, {plan.FinDEP, 1, &row.FinDEP}, {plan.PPPipe, most, &row.ChunkedPPPipe}, {plan.FinDEP, most, &row.ChunkedFinDEP}} {
		p.Limits.MaxChunks = scheme.chunks
		r, err := w.Solve(context.Background(), p, scheme.policy)
		if err != nil {
			return nil, err
		}
		*scheme.result = r
	}
	return row, nil
}
