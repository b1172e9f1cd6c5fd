// SPDX-License-Identifier: Apache-2.0

package tasklist

import (
	"encoding/binary"
	"fmt"
)

// List is a decoded list.
type List struct {
	Rank, World int
	Identity
	BufferSizes []uint64
	Tasks       []ListTask
}

// ListTask is one task with its operations.
type ListTask struct {
	Task
	Ops []Op
}

// Op is one operation. Body is the arguments as they lie in the list.
type Op struct {
	Code uint16
	Body []byte
}

// Transfer is one part of a group.
type Transfer struct {
	Peer, Buffer  uint32
	Offset, Bytes uint64
}

// Group returns the channel and the parts of a send or a receive.
func (o Op) Group() (c Channel, parts []Transfer, ok bool) {
	if o.Code != codeSend && o.Code != codeReceive {
		return 0, nil, false
	}
	le := binary.LittleEndian
	for b := o.Body[8:]; len(b) > 0; b = b[partBytes:] {
		parts = append(parts, Transfer{le.Uint32(b), le.Uint32(b[4:]), le.Uint64(b[8:]), le.Uint64(b[16:])})
	}
	return Channel(le.Uint32(o.Body)), parts, true
}

// Decode reads a list, with the checks of the native side: what one accepts
// the other does too. Op bodies point into b.
func Decode(b []byte) (*List, error) {
	d := decoder{b: b}
	list, err := d.sections()
	if err == nil {
		err = d.walk(list)
	}
	if err != nil {
		return nil, fmt.Errorf("task list: %w", err)
	}
	return list, nil
}

type decoder struct {
	b                 []byte
	tasks, deps, ops  []byte
	taskCount         int
	depCount, opCount int
	firstDep, firstOp int
	last              [numChannels]Place
	any               [numChannels]bool
	rank, world       uint32
	sizes             []uint64
}

func (d *decoder) sections() (*List, error) {
	le := binary.LittleEndian
	b := d.b
	if len(b) < headerBytes {
		return nil, fmt.Errorf("%d bytes; the header alone has %d", len(b), headerBytes)
	}
	word := func(i int) uint32 { return le.Uint32(b[i:]) }
	counts := [4]uint32{word(16), word(20), word(24), word(28)}
	limits := [4]uint32{MaxBuffers, MaxTasks, MaxDeps, MaxOps}
	for i, n := range counts {
		if n > limits[i] {
			return nil, fmt.Errorf("count %d is %d; at most %d are possible", i, n, limits[i])
		}
	}
	d.rank, d.world = word(32), word(36)
	switch {
	case word(0) != magic || word(4) != Version:
		return nil, fmt.Errorf("magic %#x and version %d; they must be %#x and %d", word(0), word(4), uint32(magic), Version)
	case le.Uint64(b[8:]) != uint64(len(b)):
		return nil, fmt.Errorf("it says %d bytes and has %d", le.Uint64(b[8:]), len(b))
	case d.world > MaxWorld || d.rank >= d.world:
		return nil, fmt.Errorf("rank %d is not in a world of %d ranks", d.rank, d.world)
	case word(40)&^(flagCapture|flagTimed) != 0 || le.Uint64(b[56:]) != 0:
		return nil, fmt.Errorf("unknown flags %#x", word(40))
	}
	d.taskCount, d.depCount, d.opCount = int(counts[1]), int(counts[2]), int(counts[3])
	deps := (4*d.depCount + 7) / 8 * 8
	fixed := headerBytes + 8*int(counts[0]) + taskBytes*d.taskCount + deps
	if fixed > len(b) {
		return nil, fmt.Errorf("its sections have %d bytes, it has %d", fixed, len(b))
	}
	rest := b[headerBytes:]
	for range counts[0] {
		d.sizes = append(d.sizes, le.Uint64(rest))
		rest = rest[8:]
	}
	d.tasks, rest = rest[:taskBytes*d.taskCount], rest[taskBytes*d.taskCount:]
	d.deps, d.ops = rest[:deps], rest[deps:]
	if d.depCount%2 != 0 && le.Uint32(d.deps[deps-4:]) != 0 {
		return nil, fmt.Errorf("the padding is not zero")
	}
	return &List{
		Rank: int(d.rank), World: int(d.world), BufferSizes: d.sizes,
		Identity: Identity{Plan: le.Uint64(b[48:]), Bucket: word(44), Capture: word(40)&flagCapture != 0, Timed: word(40)&flagTimed != 0},
	}, nil
}

func (d *decoder) walk(list *List) error {
	for i := range d.taskCount {
		t, ops, err := d.task(i)
		if err != nil {
			return fmt.Errorf("task %d: %w", i, err)
		}
		groups := 0
		for range ops {
			op, err := d.op()
			if err != nil {
				return fmt.Errorf("task %d: operation %d: %w", i, len(t.Ops), err)
			}
			if c, _, ok := op.Group(); ok {
				if groups++; groups > 1 {
					return fmt.Errorf("task %d has more than one group of transfers", i)
				}
				if err := d.ordered(c, &t.Task); err != nil {
					return fmt.Errorf("task %d: %w", i, err)
				}
			}
			t.Ops = append(t.Ops, op)
		}
		list.Tasks = append(list.Tasks, t)
	}
	if d.firstDep != d.depCount || d.firstOp != d.opCount || len(d.ops) != 0 {
		return fmt.Errorf("%d dependencies, %d operations and %d bytes that no task has", d.depCount-d.firstDep, d.opCount-d.firstOp, len(d.ops))
	}
	return nil
}

// task reads task i and returns how many operations it has.
func (d *decoder) task(i int) (t ListTask, ops int, err error) {
	le := binary.LittleEndian
	b := d.tasks[taskBytes*i:]
	word := func(i int) int { return int(le.Uint32(b[4+4*i:])) }
	t.Kind, t.Place = Kind(b[0]), Place{word(0), word(1), word(2)}
	deps, ops := word(4), word(6)
	switch {
	case t.Kind >= NumKinds || b[1] != t.Kind.Stream() || b[2] != 0 || b[3] != 0:
		return t, 0, fmt.Errorf("kind %d on stream %d", b[0], b[1])
	case word(3) != d.firstDep || deps > d.depCount-d.firstDep:
		return t, 0, fmt.Errorf("its %d dependencies are not the next", deps)
	case word(5) != d.firstOp || ops > d.opCount-d.firstOp:
		return t, 0, fmt.Errorf("its %d operations are not the next", ops)
	}
	for k := range deps {
		dep := int(le.Uint32(d.deps[4*(d.firstDep+k):]))
		if dep >= i || k > 0 && dep <= t.Deps[k-1] {
			return t, 0, fmt.Errorf("dependency on task %d: they must ascend and come before", dep)
		}
		t.Deps = append(t.Deps, dep)
	}
	d.firstDep += deps
	d.firstOp += ops
	return t, ops, nil
}

func (d *decoder) op() (Op, error) {
	le := binary.LittleEndian
	if len(d.ops) < recordBytes {
		return Op{}, fmt.Errorf("%d bytes are left", len(d.ops))
	}
	size := uint64(le.Uint32(d.ops[4:]))
	if size < recordBytes || size%8 != 0 || size > uint64(len(d.ops)) || le.Uint16(d.ops[2:]) != 0 {
		return Op{}, fmt.Errorf("size %d of %d bytes", size, len(d.ops))
	}
	op := Op{Code: le.Uint16(d.ops), Body: d.ops[recordBytes:size:size]}
	d.ops = d.ops[size:]
	if op.Code == codeSend || op.Code == codeReceive {
		return op, d.parts(op.Body)
	}
	shape, ok := layouts[op.Code]
	if !ok || len(op.Body) != matrixBytes*shape.matrices+shape.tail {
		return op, fmt.Errorf("code %d with %d bytes of arguments", op.Code, len(op.Body))
	}
	for m := range shape.matrices {
		if err := d.matrix(op.Body[matrixBytes*m:]); err != nil {
			return op, fmt.Errorf("matrix %d: %w", m, err)
		}
	}
	return op, nil
}

func (d *decoder) matrix(b []byte) error {
	le := binary.LittleEndian
	buffer, dtype := le.Uint32(b), le.Uint32(b[4:])
	offset, rows, cols, stride := int64(le.Uint64(b[8:])), int64(le.Uint64(b[16:])), int64(le.Uint64(b[24:])), int64(le.Uint64(b[32:]))
	if dtype > 4 || rows < 0 || rows > maxSize || cols < 0 || cols > maxSize || offset < 0 {
		return fmt.Errorf("%d x %d elements of type %d at %d", rows, cols, dtype, offset)
	}
	if rows == 0 {
		return nil
	}
	if cols == 0 || stride < cols || stride > maxSize || uint64(buffer) >= uint64(len(d.sizes)) {
		return fmt.Errorf("%d columns with a stride of %d in buffer %d", cols, stride, buffer)
	}
	element := [...]uint64{4, 2, 2, 4, 1}[dtype]
	room, need := d.sizes[buffer]/element, uint64((rows-1)*stride+cols)
	if need > room || uint64(offset) > room-need {
		return fmt.Errorf("%d elements at %d exceed the %d of buffer %d", need, offset, room, buffer)
	}
	return nil
}

func (d *decoder) parts(b []byte) error {
	le := binary.LittleEndian
	if len(b) < 8 || le.Uint32(b) >= uint32(numChannels) {
		return fmt.Errorf("a group of %d bytes", len(b))
	}
	n := uint64(le.Uint32(b[4:]))
	if n > MaxParts || uint64(len(b)) != 8+partBytes*n {
		return fmt.Errorf("a group of %d parts in %d bytes", n, len(b))
	}
	before := uint32(0)
	for b = b[8:]; len(b) > 0; b = b[partBytes:] {
		peer, buffer, offset, size := le.Uint32(b), le.Uint32(b[4:]), le.Uint64(b[8:]), le.Uint64(b[16:])
		if peer >= d.world || peer == d.rank || peer < before || uint64(buffer) >= uint64(len(d.sizes)) {
			return fmt.Errorf("a part for rank %d after rank %d, in buffer %d", peer, before, buffer)
		}
		if room := d.sizes[buffer]; size == 0 || size > room || offset > room-size {
			return fmt.Errorf("a part of %d bytes at %d exceeds the %d of buffer %d", size, offset, room, buffer)
		}
		before = peer
	}
	return nil
}

// ordered checks a group against the one before it on its channel.
func (d *decoder) ordered(c Channel, t *Task) error {
	if t.Kind.Stream() != uint8(c)+StreamA2E {
		return fmt.Errorf("a group of channel %d on stream %d", c, t.Kind.Stream())
	}
	if l := d.last[c]; d.any[c] && !l.before(t.Place) {
		return fmt.Errorf("the group of %+v follows that of %+v", t.Place, l)
	}
	d.last[c], d.any[c] = t.Place, true
	return nil
}

func (p Place) before(q Place) bool {
	switch {
	case p.Layer != q.Layer:
		return p.Layer < q.Layer
	case p.MicroBatch != q.MicroBatch:
		return p.MicroBatch < q.MicroBatch
	}
	return p.Segment < q.Segment
}
