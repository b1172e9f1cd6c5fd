// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"bytes"
	"testing"

	"github.com/findep/findep-operator/runtime/transport"
)

// What decodes must be within the limits and encode to the very same bytes.

func FuzzHello(f *testing.F) {
	var b [helloBytes]byte
	hello{direction: e2a, epoch: 7, from: 3, to: 9}.encode(&b)
	f.Add(b[:])
	f.Add(bytes.Repeat([]byte{0xff}, helloBytes))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) != helloBytes {
			return
		}
		in := [helloBytes]byte(data)
		h, err := decodeHello(&in)
		if err != nil {
			return
		}
		if h.from >= maxWireRank || h.to >= maxWireRank || h.epoch == 0 || (h.direction != a2e && h.direction != e2a) {
			t.Fatalf("accepted %+v", h)
		}
		var out [helloBytes]byte
		h.encode(&out)
		if in != out {
			t.Fatalf("%x decodes to %+v, which encodes to %x", in, h, out)
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add(reply{status: statusRank, epoch: 8, text: "rank 3 is no attention rank"}.encode())
	f.Add(bytes.Repeat([]byte{0xff}, replyBytes))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := readReply(bytes.NewReader(data))
		if err == nil && (len(data) < replyBytes || data[6] != byte(statusOK)) {
			t.Fatalf("took %x for consent", data)
		}
	})
}

func FuzzHeader(f *testing.F) {
	var b [messageBytes]byte
	encodeHeader(&b, &transport.Header{Step: 1, Layer: 2, MicroBatch: 3, Segment: 4, Rows: 5, Pairs: 6, Bytes: 7})
	f.Add(b[:])
	f.Add(bytes.Repeat([]byte{0xff}, messageBytes))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) != messageBytes {
			return
		}
		in := [messageBytes]byte(data)
		h, err := decodeHeader(&in)
		if err != nil {
			return
		}
		if h.Rows > transport.MaxRows || h.Pairs > transport.MaxPairs || h.Bytes > transport.MaxPayloadBytes {
			t.Fatalf("accepted %+v", h)
		}
		var out [messageBytes]byte
		encodeHeader(&out, &h)
		if in != out {
			t.Fatalf("%x decodes to %+v, which encodes to %x", in, h, out)
		}
	})
}
