// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"net"
	"sync"
	"time"
)

// maxDelayed bounds the bytes that a delayed connection holds back, which
// bounds its throughput to that many bytes per delay.
const maxDelayed = 16 << 20

// delayed is a connection on which everything arrives later by a fixed time, as
// on a longer path. It is for experiments: many kernels cannot delay packets.
// Deadlines act on the arrival of bytes, not on their delivery.
type delayed struct {
	*net.TCPConn
	delay time.Duration

	mu      sync.Mutex
	changed sync.Cond
	held    []arrival
	size    int
	err     error // of the reading goroutine; it has ended
}

// arrival is what one read took, and when it may be passed on.
type arrival struct {
	data []byte
	at   time.Time
}

// newDelayed starts a goroutine that ends with the connection.
func newDelayed(c *net.TCPConn, delay time.Duration, run func(func())) *delayed {
	d := &delayed{TCPConn: c, delay: delay}
	d.changed.L = &d.mu
	run(d.pump)
	return d
}

func (d *delayed) pump() {
	for {
		data := make([]byte, recordBytes)
		n, err := d.TCPConn.Read(data)
		d.mu.Lock()
		if n > 0 {
			d.held = append(d.held, arrival{data[:n], time.Now().Add(d.delay)})
			d.size += n
		}
		d.err = err
		d.changed.Broadcast()
		full := d.size > maxDelayed
		d.mu.Unlock()
		if err != nil {
			return
		}
		if full {
			d.awaitRoom()
		}
	}
}

// awaitRoom returns once there is room again or the connection is closed. It
// looks every now and then: whoever closes the socket knows nothing of it.
func (d *delayed) awaitRoom() {
	socket, err := d.SyscallConn()
	if err != nil {
		return
	}
	for socket.Control(func(uintptr) {}) == nil {
		time.Sleep(d.delay)
		d.mu.Lock()
		full := d.size > maxDelayed
		d.mu.Unlock()
		if !full {
			return
		}
	}
}

// Read implements net.Conn.
func (d *delayed) Read(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.held) == 0 && d.err == nil {
		d.changed.Wait()
	}
	if len(d.held) == 0 {
		return 0, d.err
	}
	if wait := time.Until(d.held[0].at); wait > 0 {
		d.mu.Unlock()
		time.Sleep(wait)
		d.mu.Lock()
	}
	first := &d.held[0] // Appending may have moved it.
	n := copy(p, first.data)
	if first.data = first.data[n:]; len(first.data) == 0 {
		d.held = d.held[1:]
	}
	d.size -= n
	d.changed.Broadcast()
	return n, nil
}
