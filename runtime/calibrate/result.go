// SPDX-License-Identifier: Apache-2.0

package calibrate

import (
	"context"
	"errors"
	"fmt"

	"github.com/findep/findep-operator/runtime/profile"
)

// Result are the lines of one device and link.
type Result struct {
	GEMM, Grouped, Attention, Decode, Memory, Link Line
}

// Lines lists them in the order of a profile's fields.
func (r *Result) Lines() []*Line {
	return []*Line{&r.GEMM, &r.Grouped, &r.Attention, &r.Decode, &r.Memory, &r.Link}
}

// Fill writes the lines to a profile, which has names and memory already. What
// was not measured is left as it is.
func (r *Result) Fill(p *profile.Profile) {
	for _, f := range []struct {
		line *Line
		to   *profile.Compute
	}{{&r.GEMM, &p.GEMM}, {&r.Grouped, &p.GroupedGEMM}, {&r.Attention, &p.Attention}, {&r.Decode, &p.DecodeAttention}} {
		if len(f.line.Points) > 0 {
			*f.to = f.line.Compute()
		}
	}
	if len(r.Memory.Points) > 0 {
		p.Memory = r.Memory.Transfer(p.Memory.Name)
	}
	if len(r.Link.Points) > 0 {
		p.Link = r.Link.Transfer(p.Link.Name)
	}
}

// MeasureCompute measures and fits everything but the link. All series are
// measured even if one makes no line, so that one run finds everything that is
// wrong; the error joins a *PoorFitError for each of those.
func MeasureCompute(ctx context.Context, b *Bench, r *Result, o Options) error {
	var poor []error
	for _, s := range []struct {
		kind  Kind
		works func() ([]Work, error)
		to    *Line
	}{
		{GEMM, b.GEMM, &r.GEMM},
		{GroupedGEMM, b.Grouped, &r.Grouped},
		{Attention, b.Prefill, &r.Attention},
		{DecodeAttention, b.Decode, &r.Decode},
		{Memory, b.ReadMemory, &r.Memory},
	} {
		if err := ctx.Err(); err != nil {
			return err
		}
		works, err := s.works()
		if err != nil {
			return fmt.Errorf("%s: %w", s.kind, err)
		}
		series, err := Measure(ctx, s.kind, works, o)
		if err != nil {
			return err
		}
		*s.to, err = FitLine(series)
		if err != nil {
			poor = append(poor, err)
		}
	}
	b.release()
	return errors.Join(poor...)
}
