// SPDX-License-Identifier: Apache-2.0

package tasklist

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/findep/findep-operator/runtime/backend"
)

// Encoder writes one list. The zero value is not usable; call Reset. It keeps
// the first error, which Finish returns.
type Encoder struct {
	rank, world int
	buffers     []backend.Buffer
	numbers     map[backend.Buffer]uint32
	tasks       []byte
	deps        []byte
	ops         []byte
	list        []byte
	taskCount   int
	depCount    int
	opCount     int
	err         error
}

// Reset begins the list of a rank. It keeps the memory of the list before,
// which must not be used any more.
func (e *Encoder) Reset(rank, world int) {
	if e.numbers == nil {
		e.numbers = map[backend.Buffer]uint32{}
	}
	clear(e.numbers)
	e.rank, e.world = rank, world
	e.buffers, e.tasks, e.deps, e.ops = e.buffers[:0], e.tasks[:0], e.deps[:0], e.ops[:0]
	e.taskCount, e.depCount, e.opCount, e.err = 0, 0, 0, nil
	if world < 1 || world > MaxWorld || rank < 0 || rank >= world {
		e.fail(fmt.Errorf("rank %d is not in a world of %d ranks; at most %d are possible", rank, world, MaxWorld))
	}
}

func (e *Encoder) fail(err error) {
	if e.err == nil {
		e.err = err
	}
}

// Begin begins a task, which must wait for the tasks deps: numbers that earlier
// calls returned, ascending. Operations up to the next Begin are its own.
func (e *Encoder) Begin(kind Kind, layer, microBatch, segment int, deps []int) int {
	at := len(e.tasks)
	e.tasks = append(e.tasks, make([]byte, taskBytes)...)
	t := e.tasks[at:]
	t[0], t[1] = byte(kind), kind.Stream()
	for i, v := range [...]int{layer, microBatch, segment, e.depCount, len(deps), e.opCount} {
		binary.LittleEndian.PutUint32(t[4+4*i:], uint32(v))
	}
	for _, d := range deps {
		e.deps = binary.LittleEndian.AppendUint32(e.deps, uint32(d))
	}
	e.depCount += len(deps)
	e.taskCount++
	return e.taskCount - 1
}

// counted adds an operation to the task that was begun last.
func (e *Encoder) counted() {
	e.opCount++
	if e.taskCount == 0 {
		e.fail(errors.New("an operation before the first task"))
		return
	}
	last := e.tasks[len(e.tasks)-4:]
	binary.LittleEndian.PutUint32(last, binary.LittleEndian.Uint32(last)+1)
}

// Identity is what a graph of the list is kept by, for people: Plan identifies
// plan and role, Bucket is the batch's size, rounded up.
type Identity struct {
	Plan   uint64
	Bucket uint32
	// Capture asks to record the list as a graph and to replay that when the
	// same list comes again.
	Capture bool
	// Timed asks for the times of the list's tasks. A list that is timed and one
	// that is not have graphs of their own.
	Timed bool
}

// Finish returns the list and the buffers that its numbers stand for. Both are
// the encoder's memory, valid until Reset.
func (e *Encoder) Finish(id Identity) ([]byte, []backend.Buffer, error) {
	for _, limit := range []struct {
		what       string
		count, max int
	}{{"buffers", len(e.buffers), MaxBuffers}, {"tasks", e.taskCount, MaxTasks}, {"dependencies", e.depCount, MaxDeps}, {"operations", e.opCount, MaxOps}} {
		if limit.count > limit.max {
			e.fail(fmt.Errorf("a list of %d %s; at most %d are possible", limit.count, limit.what, limit.max))
		}
	}
	if e.err != nil {
		return nil, nil, fmt.Errorf("task list: %w", e.err)
	}
	if e.depCount%2 != 0 {
		e.deps = append(e.deps, 0, 0, 0, 0)
	}
	flags := uint32(0)
	if id.Capture {
		flags = flagCapture
	}
	if id.Timed {
		flags |= flagTimed
	}
	le := binary.LittleEndian
	total := headerBytes + 8*len(e.buffers) + len(e.tasks) + len(e.deps) + len(e.ops)
	b := e.list[:0]
	b = le.AppendUint32(le.AppendUint32(b, magic), Version)
	b = le.AppendUint64(b, uint64(total))
	for _, v := range [...]uint32{uint32(len(e.buffers)), uint32(e.taskCount), uint32(e.depCount), uint32(e.opCount),
		uint32(e.rank), uint32(e.world), flags, id.Bucket} {
		b = le.AppendUint32(b, v)
	}
	b = le.AppendUint64(le.AppendUint64(b, id.Plan), 0)
	for _, buffer := range e.buffers {
		b = le.AppendUint64(b, uint64(buffer.Size()))
	}
	b = append(append(append(b, e.tasks...), e.deps...), e.ops...)
	e.list = b
	return b, e.buffers, nil
}

func (e *Encoder) number(b backend.Buffer) uint32 {
	n, ok := e.numbers[b]
	if !ok {
		n = uint32(len(e.buffers))
		e.numbers[b] = n
		e.buffers = append(e.buffers, b)
	}
	return n
}

// record is an operation that is being written.
type record struct {
	e    *Encoder
	name string
	at   int
}

func (e *Encoder) begin(name string, code uint16) record {
	r := record{e, name, len(e.ops)}
	e.ops = binary.LittleEndian.AppendUint16(e.ops, code)
	e.ops = append(e.ops, 0, 0, 0, 0, 0, 0)
	e.counted()
	return r
}

// end fills in the size, and tells what is wrong with the operation.
func (r record) end() error {
	binary.LittleEndian.PutUint32(r.e.ops[r.at+4:], uint32(len(r.e.ops)-r.at))
	if r.e.err != nil {
		return r.e.err
	}
	return nil
}

// matrix appends a view, checked against its buffer.
func (r record) matrix(name string, m backend.Matrix) record {
	e := r.e
	if err := m.Check(name); err != nil {
		e.fail(fmt.Errorf("%s: %w", r.name, err))
	}
	number := uint32(0)
	if m.Rows > 0 && m.Buffer != nil {
		number = e.number(m.Buffer)
	}
	le := binary.LittleEndian
	e.ops = le.AppendUint32(le.AppendUint32(e.ops, number), uint32(m.DType))
	for _, v := range [...]int64{m.Offset, int64(m.Rows), int64(m.Cols), int64(m.Stride)} {
		e.ops = le.AppendUint64(e.ops, uint64(v))
	}
	return r
}

func (r record) words(values ...uint32) record {
	for _, v := range values {
		r.e.ops = binary.LittleEndian.AppendUint32(r.e.ops, v)
	}
	return r
}

func (r record) sizes(values ...int) record {
	for _, v := range values {
		r.e.ops = binary.LittleEndian.AppendUint64(r.e.ops, uint64(int64(v)))
	}
	return r
}
