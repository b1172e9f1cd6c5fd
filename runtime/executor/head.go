// SPDX-License-Identifier: Apache-2.0

package executor

import (
	"fmt"

	"github.com/findep/findep-operator/runtime/schedule"
)

// heads runs what follows the pipeline, micro-batch by micro-batch, as soon as
// each has its last rows back.
func (a *AttentionRank) heads() error {
	last := a.schedule.Layers - 1
	for i := range a.batches {
		for j := range a.schedule.Segments {
			id, _ := a.schedule.Find(schedule.E2A, last, i, j)
			if err := a.tracker.wait(id); err != nil {
				return err
			}
		}
		a.lanes[0].began()
		if err := a.head(&a.batches[i]); err != nil {
			return fmt.Errorf("output head, micro-batch %d: %w", i, err)
		}
		a.lanes[0].record(Head, last, i, 0)
	}
	return nil
}

// head computes the final norm and the logits of the rows that are wanted.
func (a *AttentionRank) head(b *batch) error {
	if err := a.combine(b); err != nil {
		return err
	}
	return a.logitsOf(b)
}

// logitsOf computes what head does of a finished residual stream.
func (a *AttentionRank) logitsOf(b *batch) error {
	for from := 0; from < len(b.headTargets); from += headBlock {
		to := min(from+headBlock, len(b.headTargets))
		if err := a.headRows(b, from, to); err != nil {
			return err
		}
	}
	return a.computeStream().Synchronize()
}

func (a *AttentionRank) headRows(b *batch, from, to int) error {
	m, w, ops := &a.memory, a.config.Weights, a.computeStream()
	x, err := m.headRows.rows(to - from)
	if err != nil {
		return err
	}
	logits, err := m.logits.rows(to - from)
	if err != nil {
		return err
	}
	if err := ops.GatherRows(x, a.hiddenOf(b), b.headRows.RowRange(from, to)); err != nil {
		return err
	}
	if err := ops.RMSNorm(x, x, w.FinalNorm, float32(a.shape.RMSNormEpsilon)); err != nil {
		return err
	}
	if err := ops.MatMul(logits, x, w.Head, false); err != nil {
		return err
	}
	if err := ops.Synchronize(); err != nil {
		return err
	}
	if err := m.logits.pull(ops, 0, to-from); err != nil {
		return err
	}
	for i, target := range b.headTargets[from:to] {
		if err := a.deliver(target, floats(m.logits.host(i, i+1))); err != nil {
			return err
		}
	}
	return nil
}

// deliver copies the logits of a row where they were asked for and samples.
func (a *AttentionRank) deliver(t headTarget, logits []float32) error {
	p, out := &a.pieces[t.output], &a.outputs[t.output]
	if t.keep >= 0 {
		if out.Logits == nil {
			rows := 1
			if p.Logits == LogitsAll {
				rows = len(p.Tokens)
			}
			out.Logits = make([]float32, rows*a.shape.VocabSize)
		}
		copy(out.Logits[t.keep*a.shape.VocabSize:], logits)
	}
	if !t.sample {
		return nil
	}
	choice, err := a.sampler.Sample(logits, p.Sampling, p.Start+len(p.Tokens))
	if err != nil {
		return fmt.Errorf("sequence %d, position %d: %w", p.Sequence, p.Start+len(p.Tokens), err)
	}
	out.Sampled, out.Choice = true, choice
	return nil
}
