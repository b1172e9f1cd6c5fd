// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"encoding/binary"
	"fmt"

	"github.com/findep/findep-operator/runtime/transport"
)

// All integers on the wire are little-endian, because every supported machine
// is.

// wireVersion is refused when it differs between the two sides.
const wireVersion = 2

const (
	helloMagic   = 0x50445046 // "FPDP"
	replyMagic   = 0x52445046 // "FPDR"
	messageMagic = 0x4d445046 // "FPDM"

	helloBytes   = 24
	replyBytes   = 20
	messageBytes = 48

	// maxReason bounds the text of a refusal.
	maxReason = 512
	// mayShare in a hello's flags says that the dialler can share memory.
	mayShare = 1

	// maxWireRank bounds a rank on the wire.
	maxWireRank = 1 << 20
)

// direction is what a connection carries.
type direction uint8

const (
	a2e direction = 1
	e2a direction = 2
)

func (d direction) String() string {
	switch d {
	case a2e:
		return "A2E"
	case e2a:
		return "E2A"
	}
	return fmt.Sprintf("direction %d", uint8(d))
}

// hello is the first frame of a connection: who dials, for which epoch, and
// what the connection will carry.
//
//	magic u32 | version u16 | direction u8 | flags u8 | epoch u64 | from u32 | to u32
type hello struct {
	direction direction
	// share offers to use shared memory instead of this connection.
	share    bool
	epoch    uint64
	from, to int
}

// versionError is a hello of another protocol version.
type versionError struct{ got uint16 }

func (e versionError) Error() string {
	return fmt.Sprintf("version is %d, this side speaks %d", e.got, wireVersion)
}

func (h hello) encode(b *[helloBytes]byte) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], helloMagic)
	le.PutUint16(b[4:], wireVersion)
	b[6], b[7] = byte(h.direction), 0
	if h.share {
		b[7] = mayShare
	}
	le.PutUint64(b[8:], h.epoch)
	le.PutUint32(b[16:], uint32(h.from)) //nolint:gosec // ranks are checked against maxWireRank.
	le.PutUint32(b[20:], uint32(h.to))   //nolint:gosec // ranks are checked against maxWireRank.
}

func decodeHello(b *[helloBytes]byte) (hello, error) {
	le := binary.LittleEndian
	if got := le.Uint32(b[0:]); got != helloMagic {
		return hello{}, fmt.Errorf("hello magic is %#x, want %#x: not a findep data connection", got, uint32(helloMagic))
	}
	if got := le.Uint16(b[4:]); got != wireVersion {
		return hello{}, versionError{got}
	}
	h := hello{
		direction: direction(b[6]),
		share:     b[7] == mayShare,
		epoch:     le.Uint64(b[8:]),
		from:      int(le.Uint32(b[16:])),
		to:        int(le.Uint32(b[20:])),
	}
	switch {
	case h.direction != a2e && h.direction != e2a:
		return hello{}, fmt.Errorf("hello direction is %d, want %d (A2E) or %d (E2A)", b[6], a2e, e2a)
	case b[7]&^mayShare != 0:
		return hello{}, fmt.Errorf("hello flags are %#x, this side knows %#x", b[7], mayShare)
	case h.epoch == 0:
		return hello{}, fmt.Errorf("hello epoch is 0; epochs begin at 1")
	case h.from >= maxWireRank || h.to >= maxWireRank:
		return hello{}, fmt.Errorf("hello ranks are %d and %d; the limit is %d", h.from, h.to, maxWireRank)
	}
	return h, nil
}

// status is the answer to a hello.
type status uint8

const (
	statusOK status = iota
	// statusStale: the hello's epoch is over.
	statusStale
	// statusEarly: the hello's epoch has not begun here within the timeout.
	statusEarly
	// statusRank: the hello names a rank or direction that is not expected.
	statusRank
	// statusVersion: another protocol version.
	statusVersion
	// statusBusy: too many connections wait.
	statusBusy
	statusCount
)

// reason is the counter a refusal goes to.
func (s status) reason() string {
	switch s {
	case statusStale, statusEarly:
		return "epoch"
	case statusRank:
		return "rank"
	case statusVersion:
		return "version"
	}
	return "handshake"
}

// reply answers a hello; a text follows the fixed part.
//
//	magic u32 | version u16 | status u8 | 0 u8 | epoch u64 | length u32 | text
type reply struct {
	status status
	// epoch is the highest that the answering side has seen.
	epoch uint64
	// text is the reason of a refusal. That of a consent is empty, or a ticket
	// to share memory: then the dialler answers with one more byte, a verdict.
	text string
}

func (r reply) encode() []byte {
	if len(r.text) > maxReason {
		r.text = r.text[:maxReason]
	}
	le := binary.LittleEndian
	b := make([]byte, replyBytes, replyBytes+len(r.text))
	le.PutUint32(b[0:], replyMagic)
	le.PutUint16(b[4:], wireVersion)
	b[6] = byte(r.status)
	le.PutUint64(b[8:], r.epoch)
	le.PutUint32(b[16:], uint32(len(r.text))) //nolint:gosec // bounded by maxReason.
	return append(b, r.text...)
}

// decodeReply decodes the fixed part and returns the length of the text.
func decodeReply(b *[replyBytes]byte) (reply, int, error) {
	le := binary.LittleEndian
	if got := le.Uint32(b[0:]); got != replyMagic {
		return reply{}, 0, fmt.Errorf("reply magic is %#x, want %#x: not a findep data listener, or one side has no TLS",
			got, uint32(replyMagic))
	}
	// The version is not checked: a side that refuses our version must be able
	// to say so, whatever its own is.
	length := le.Uint32(b[16:])
	switch {
	case b[6] >= byte(statusCount):
		return reply{}, 0, fmt.Errorf("reply status is %d, want less than %d", b[6], statusCount)
	case length > maxReason:
		return reply{}, 0, fmt.Errorf("reply text has %d bytes, the limit is %d", length, maxReason)
	}
	return reply{status: status(b[6]), epoch: le.Uint64(b[8:])}, int(length), nil
}

// Message header:
//
//	magic u32 | layer u32 | step u64 | microBatch u32 | segment u32 |
//	rows u32 | pairs u32 | bytes u64 | 0 u64
func encodeHeader(b *[messageBytes]byte, h *transport.Header) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], messageMagic)
	le.PutUint32(b[4:], h.Layer)
	le.PutUint64(b[8:], h.Step)
	le.PutUint32(b[16:], h.MicroBatch)
	le.PutUint32(b[20:], h.Segment)
	le.PutUint32(b[24:], h.Rows)
	le.PutUint32(b[28:], h.Pairs)
	le.PutUint64(b[32:], h.Bytes)
	le.PutUint64(b[40:], 0)
}

func decodeHeader(b *[messageBytes]byte) (transport.Header, error) {
	le := binary.LittleEndian
	if got := le.Uint32(b[0:]); got != messageMagic {
		return transport.Header{}, fmt.Errorf("message magic is %#x, want %#x: the stream is out of step", got, uint32(messageMagic))
	}
	if got := le.Uint64(b[40:]); got != 0 {
		return transport.Header{}, fmt.Errorf("message reserved field is %d, want 0", got)
	}
	h := transport.Header{
		Layer:      le.Uint32(b[4:]),
		Step:       le.Uint64(b[8:]),
		MicroBatch: le.Uint32(b[16:]),
		Segment:    le.Uint32(b[20:]),
		Rows:       le.Uint32(b[24:]),
		Pairs:      le.Uint32(b[28:]),
		Bytes:      le.Uint64(b[32:]),
	}
	return h, checkHeader(&h)
}

// checkHeader applies the limits on what a peer can make a rank reserve.
func checkHeader(h *transport.Header) error {
	switch {
	case h.Rows > transport.MaxRows:
		return fmt.Errorf("message rows is %d, the limit is %d", h.Rows, transport.MaxRows)
	case h.Pairs > transport.MaxPairs:
		return fmt.Errorf("message pairs is %d, the limit is %d", h.Pairs, transport.MaxPairs)
	case h.Bytes > transport.MaxPayloadBytes:
		return fmt.Errorf("message bytes is %d, the limit is %d", h.Bytes, uint64(transport.MaxPayloadBytes))
	}
	return nil
}
