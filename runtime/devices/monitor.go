// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/findep/findep-operator/runtime/plan"
)

// eventWait bounds one wait for events, so that the end of the context and the
// time of the next reading are noticed.
const eventWait = 500 * time.Millisecond

// Options of a Monitor; zero values mean the defaults.
type Options struct {
	// Interval is the time between readings; 5 s.
	Interval time.Duration
	// Patience is how old the last reading may be before the driver counts as
	// not responding; 30 s.
	Patience time.Duration
	// Now is the clock.
	Now func() time.Time
	// Event, if set, is told of every error that the driver reports, with the
	// device's index. It is called from the monitor's goroutine.
	Event func(gpu GPU, x XID)
}

// Snapshot is what a Monitor knows at one moment.
type Snapshot struct {
	// At is when the driver last answered.
	At time.Time `json:"at"`
	// Err says why there is nothing to see, as ErrNoDriver; nil otherwise.
	Err error `json:"-"`
	// NoEvents says why errors are only seen in readings; empty if they are not.
	NoEvents string   `json:"noEvents,omitempty"`
	GPUs     []Status `json:"gpus,omitempty"`
}

// Status is one GPU in a Snapshot.
type Status struct {
	GPU     GPU               `json:"gpu"`
	Reading Reading           `json:"reading"`
	Health  plan.DeviceHealth `json:"health"`
	// XIDs counts the driver's errors by number since the monitor started.
	XIDs map[uint64]uint64 `json:"xids,omitempty"`
}

// Monitor watches the GPUs that this process can see. One goroutine asks the
// driver; everybody else looks at what it last found, so a driver that hangs
// keeps nobody else waiting.
type Monitor struct {
	lib     nvml.Interface
	options Options
	started time.Time
	latest  atomic.Pointer[Snapshot]
	first   chan struct{} // closed with the first snapshot
	done    chan struct{} // closed when the goroutine has ended
}

// Watch starts a monitor, which ends with the context. Where there is no driver
// it ends at once, and its snapshot says so.
func Watch(ctx context.Context, lib nvml.Interface, o Options) *Monitor {
	if o.Interval <= 0 {
		o.Interval = 5 * time.Second
	}
	if o.Patience <= 0 {
		o.Patience = 30 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	m := &Monitor{lib: lib, options: o, started: o.Now(), first: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(m.done)
		if err := m.watch(ctx); err != nil {
			m.publish(&Snapshot{At: o.Now(), Err: err})
		}
	}()
	return m
}

// Ready is closed when the driver has answered for the first time.
func (m *Monitor) Ready() <-chan struct{} { return m.first }

// Done is closed when the monitor has let go of the library. It may never be,
// if the library hangs.
func (m *Monitor) Done() <-chan struct{} { return m.done }

// Snapshot returns what is known; nil before the first answer.
func (m *Monitor) Snapshot() *Snapshot { return m.latest.Load() }

// Health says how the GPU with an index does; nil if there is no such GPU, or
// nothing is known yet. It never waits.
func (m *Monitor) Health(index int) *plan.DeviceHealth {
	s := m.latest.Load()
	if s == nil && m.options.Now().Sub(m.started) < m.options.Patience {
		return nil
	}
	if s != nil && (s.Err != nil || index < 0 || index >= len(s.GPUs)) {
		return nil
	}
	health := plan.DeviceHealth{}
	answered := m.started
	if s != nil {
		health, answered = s.GPUs[index].Health, s.At
	}
	if m.options.Now().Sub(answered) >= m.options.Patience && health.State != plan.DeviceFailed {
		health.State, health.Reason = plan.DeviceDegraded, ReasonNoAnswer
		health.Message = fmt.Sprintf("The NVIDIA driver has not answered for more than %v. It hangs when a GPU is lost: see dmesg on the node.", m.options.Patience)
	}
	return &health
}

func (m *Monitor) publish(s *Snapshot) {
	if m.latest.Swap(s) == nil {
		close(m.first)
	}
}

// watch owns the library until the context ends.
func (m *Monitor) watch(ctx context.Context) error {
	if err := start(m.lib); err != nil {
		return err
	}
	defer func() { _ = m.lib.Shutdown() }()
	handles, err := open(m.lib)
	if err != nil {
		return err
	}
	records := make([]*record, len(handles))
	numbers := make([][]int, len(handles))
	for i, d := range handles {
		gpu, err := describe(m.lib, d, i)
		if err != nil {
			return fmt.Errorf("GPU %d: %w", i, err)
		}
		records[i] = &record{gpu: gpu, events: map[uint64]uint64{}}
		for _, l := range gpu.Links {
			numbers[i] = append(numbers[i], l.Number)
			records[i].linksBefore |= 1 << l.Number
		}
	}
	set, noEvents := m.register(handles)
	if set != nil {
		defer func() { _ = set.Free() }()
	}
	for ctx.Err() == nil {
		for i, d := range handles {
			records[i].take(read(m.lib, d, numbers[i]))
		}
		m.publish(m.snapshot(records, noEvents))
		m.until(ctx, m.options.Now().Add(m.options.Interval), set, records, noEvents)
	}
	return nil
}

// register asks for the driver's errors of every GPU. What stands in the way is
// told: readings alone miss errors that leave no trace.
func (m *Monitor) register(handles []nvml.Device) (nvml.EventSet, string) {
	set, ret := m.lib.EventSetCreate()
	if !errors.Is(ret, nvml.SUCCESS) {
		return nil, failed("make a set of events", ret).Error()
	}
	registered := 0
	var refused error
	for i, d := range handles {
		supported, ret := d.GetSupportedEventTypes()
		if errors.Is(ret, nvml.SUCCESS) {
			ret = nvml.ERROR_NOT_SUPPORTED
			if wanted := supported & nvml.EventTypeXidCriticalError; wanted != 0 {
				ret = d.RegisterEvents(wanted, set)
			}
		}
		if errors.Is(ret, nvml.SUCCESS) {
			registered++
		} else if refused == nil {
			refused = fmt.Errorf("GPU %d: %w", i, failed("register for its errors", ret))
		}
	}
	if registered == 0 {
		_ = set.Free()
		set = nil
	}
	if refused != nil {
		return set, refused.Error()
	}
	return set, ""
}

// until takes in events until a moment has come.
func (m *Monitor) until(ctx context.Context, next time.Time, set nvml.EventSet, records []*record, noEvents string) {
	for ctx.Err() == nil {
		left := next.Sub(m.options.Now())
		if left <= 0 {
			return
		}
		wait := min(left, eventWait)
		if set == nil {
			pause(ctx, wait)
			continue
		}
		// At least a millisecond, or the last wait would spin.
		event, ret := m.lib.EventSetWait(set, uint32(max(wait, time.Millisecond).Milliseconds()))
		switch {
		case errors.Is(ret, nvml.SUCCESS):
			if m.event(event, records) {
				m.publish(m.snapshot(records, noEvents))
			}
		case !errors.Is(ret, nvml.ERROR_TIMEOUT):
			// A lost GPU fails every wait at once; readings say which it is.
			pause(ctx, wait)
		}
	}
}

// event finds the GPU that an event is of.
func (m *Monitor) event(e nvml.EventData, records []*record) bool {
	if e.EventType != nvml.EventTypeXidCriticalError || e.Device == nil {
		return false
	}
	index, ret := e.Device.GetIndex()
	if !errors.Is(ret, nvml.SUCCESS) || index < 0 || index >= len(records) {
		return false
	}
	x := XID{Number: e.EventData, At: m.options.Now()}
	records[index].event(x)
	if m.options.Event != nil {
		m.options.Event(records[index].gpu, x)
	}
	return true
}

func (m *Monitor) snapshot(records []*record, noEvents string) *Snapshot {
	now := m.options.Now()
	s := &Snapshot{At: now, NoEvents: noEvents}
	for _, r := range records {
		s.GPUs = append(s.GPUs, Status{GPU: r.gpu, Reading: r.reading, Health: r.assess(now), XIDs: maps.Clone(r.events)})
	}
	return s
}

// pause waits, or until the context ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
