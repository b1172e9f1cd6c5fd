// SPDX-License-Identifier: Apache-2.0

package calibrate

import (
	"context"
	"fmt"

	"github.com/findep/findep-operator/runtime/transport"
)

// linkBytes are the sizes of the messages: a few rows to a large segment.
var linkBytes = []int{64 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 3 << 20, 4 << 20}

// The ranks of the two ends of a link.
const (
	NearRank = 0
	FarRank  = 1
)

// Echo is the far end of a measured link: it sends every message back on the
// other direction until the mesh is closed or aborted, and returns why it
// ended.
func Echo(far transport.Mesh) error {
	in, err := far.From(NearRank)
	if err != nil {
		return err
	}
	out, err := far.To(NearRank)
	if err != nil {
		return err
	}
	payload := make([]byte, linkBytes[len(linkBytes)-1])
	for {
		h, err := in.ReceiveHeader()
		if err != nil {
			return err
		}
		if h.Bytes > uint64(len(payload)) {
			return fmt.Errorf("echo: a message of %d bytes; at most %d", h.Bytes, len(payload))
		}
		if err := in.ReceivePayload(payload[:h.Bytes]); err != nil {
			return err
		}
		if err := out.Send(h, payload[:h.Bytes]); err != nil {
			return err
		}
	}
}

// LinkWorks are messages to a far end that echoes them. A transfer's time is
// half of that of the way there and back.
func LinkWorks(near transport.Mesh) ([]Work, error) {
	out, err := near.To(FarRank)
	if err != nil {
		return nil, err
	}
	in, err := near.From(FarRank)
	if err != nil {
		return nil, err
	}
	payload := make([]byte, linkBytes[len(linkBytes)-1])
	step := uint64(0)
	var works []Work
	for _, n := range linkBytes {
		works = append(works, Work{
			What: fmt.Sprintf("a message of %d KiB", n>>10), Amount: float64(n) / 1e6, Launches: 2,
			Run: func() error {
				step++
				if err := out.Send(transport.Header{Step: step, Rows: 1}, payload[:n]); err != nil {
					return err
				}
				h, err := in.ReceiveHeader()
				if err != nil {
					return err
				}
				if h.Step != step || h.Bytes != uint64(n) {
					return fmt.Errorf("message %d of %d bytes came back as message %d of %d", step, n, h.Step, h.Bytes)
				}
				return in.ReceivePayload(payload[:n])
			},
		})
	}
	return works, nil
}

// MeasureLink measures the link between two meshes of one process, which stay
// the caller's. Cancelling the context aborts them.
func MeasureLink(ctx context.Context, near, far transport.Mesh, o Options) (Series, error) {
	stop := context.AfterFunc(ctx, func() {
		near.Abort(context.Cause(ctx))
		far.Abort(context.Cause(ctx))
	})
	defer stop()
	works, err := LinkWorks(near)
	if err != nil {
		return Series{}, err
	}
	ended := make(chan error, 1)
	go func() { ended <- Echo(far) }()
	s, err := Measure(ctx, Link, works, o)
	far.Abort(transport.ErrClosed)
	if echo := <-ended; err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w (far end: %w)", err, echo)
	}
	return s, err
}
