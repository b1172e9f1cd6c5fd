// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/findep/findep-operator/runtime/plan"
)

// prefix begins the name of every namespace and interface of the test; the
// process id follows, so that what a killed run left behind can be told apart.
const prefix = "fdsoak"

const (
	// maxFrame is an Ethernet frame of the default MTU.
	maxFrame = 1514
	// maxBacklog is how much a slow link queues before it drops.
	maxBacklog = 500 * time.Millisecond
	// queueFrames bounds the frames of one direction under way.
	queueFrames = 4096
)

// link is the state of one pod's cable, for both directions.
type link struct {
	// cut loses everything, cutData only what belongs to the data transport.
	cut, cutData bool
	// loss is the probability that a frame is lost.
	loss float64
	// delay is added to every frame, rate (bytes per second, 0 for none) spaces
	// them.
	delay time.Duration
	rate  float64
}

// port is one socket of the switch.
type port struct {
	file *os.File
	link atomic.Pointer[link]
	// to holds what is under way to each other port, in order.
	to []chan frame
}

type frame struct {
	due  time.Time
	data []byte
}

// fabric is a learning layer-2 switch. A network emulator of the kernel is
// missing from many machines, and filters act on one end of a cable only.
type fabric struct {
	ports []*port
	done  sync.WaitGroup
	stop  chan struct{}

	mu    sync.Mutex
	table map[[6]byte]int
}

// newFabric makes one namespace per pod and plugs it and this process's own
// into a switch; it skips the test where that is not permitted.
func newFabric(t *testing.T, pods int) *fabric {
	t.Helper()
	removeLeftovers()
	f := &fabric{stop: make(chan struct{}), table: map[[6]byte]int{}}
	t.Cleanup(f.close)
	for i := range pods + 1 {
		p, err := openPort(i)
		if err != nil {
			t.Skipf("no network namespaces with tap devices here (root and /dev/net/tun are needed): %v", err)
		}
		p.link.Store(&link{})
		f.ports = append(f.ports, p)
	}
	for _, p := range f.ports {
		p.to = make([]chan frame, len(f.ports))
		for j, other := range f.ports {
			p.to[j] = make(chan frame, queueFrames)
			f.done.Go(func() { f.carry(p.to[j], other) })
		}
	}
	for i := range f.ports {
		f.done.Go(func() { f.read(i) })
	}
	return f
}

// client is the number of this process's own port; pods come after it.
const client = 0

func namespace(pod int) string { return fmt.Sprintf("%s-%d-%d", prefix, os.Getpid(), pod) }

// address is the pod's address; the subnet is drawn from the process id, so
// that two runs do not meet.
func address(port int) string {
	return fmt.Sprintf("10.%d.%d.%d", 200+os.Getpid()%50, os.Getpid()/50%250, 10+port)
}

func openPort(i int) (*port, error) {
	name := fmt.Sprintf("%s%d.%d", prefix, os.Getpid()%1000000, i)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("tap device %s: %w", name, err)
	}
	p := &port{file: os.NewFile(uintptr(fd), name)}
	commands := [][]string{
		{"ip", "addr", "add", address(i) + "/24", "dev", name},
		{"ip", "link", "set", name, "up"},
	}
	if i != client {
		ns := namespace(i - 1)
		commands = [][]string{
			{"ip", "netns", "add", ns},
			{"ip", "link", "set", name, "netns", ns},
			{"ip", "-n", ns, "addr", "add", address(i) + "/24", "dev", name},
			{"ip", "-n", ns, "link", "set", "lo", "up"},
			{"ip", "-n", ns, "link", "set", name, "up"},
		}
	}
	for _, c := range commands {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			_ = p.file.Close()
			return nil, fmt.Errorf("%s: %w: %s", strings.Join(c, " "), err, out)
		}
	}
	return p, nil
}

// removeLeftovers deletes the namespaces of runs whose process has gone.
func removeLeftovers() {
	all, _ := filepath.Glob("/var/run/netns/" + prefix + "-*")
	for _, path := range all {
		name := filepath.Base(path)
		pid, _, _ := strings.Cut(strings.TrimPrefix(name, prefix+"-"), "-")
		if n, err := strconv.Atoi(pid); err == nil && n != os.Getpid() && unix.Kill(n, 0) != nil {
			_ = exec.Command("ip", "netns", "del", name).Run()
		}
	}
}

func (f *fabric) close() {
	close(f.stop)
	for i, p := range f.ports {
		_ = p.file.Close()
		if i != client {
			_ = exec.Command("ip", "netns", "del", namespace(i-1)).Run()
		}
	}
	f.done.Wait()
}

// set changes the cable of a pod.
func (f *fabric) set(pod int, l link) { f.ports[pod+1].link.Store(&l) }

func (f *fabric) read(from int) {
	buffer := make([]byte, maxFrame)
	for {
		n, err := f.ports[from].file.Read(buffer)
		if err != nil {
			return
		}
		if n < 14 {
			continue
		}
		f.forward(from, append([]byte(nil), buffer[:n]...))
	}
}

// forward sends a frame where its destination was last seen, or everywhere.
func (f *fabric) forward(from int, data []byte) {
	destination, source := [6]byte(data[:6]), [6]byte(data[6:12])
	f.mu.Lock()
	f.table[source] = from
	to, known := f.table[destination]
	f.mu.Unlock()
	for i := range f.ports {
		if i != from && (!known || i == to) {
			f.send(from, i, data)
		}
	}
}

// send puts a frame on its way, as both cables permit.
func (f *fabric) send(from, to int, data []byte) {
	due := time.Now()
	for _, l := range []*link{f.ports[from].link.Load(), f.ports[to].link.Load()} {
		if l.cut || (l.cutData && isData(data)) || (l.loss > 0 && rand.Float64() < l.loss) {
			return
		}
		due = due.Add(l.delay)
	}
	select {
	case f.ports[from].to[to] <- frame{due, data}:
	default: // The queue is full: dropped, as a switch does.
	}
}

// carry delivers one direction's frames in order, at the receiver's rate.
func (f *fabric) carry(frames <-chan frame, to *port) {
	var free time.Time
	for {
		var next frame
		select {
		case next = <-frames:
		case <-f.stop:
			return
		}
		due := next.due
		if rate := to.link.Load().rate; rate > 0 {
			if free.After(due) {
				due = free
			}
			if time.Until(due) > maxBacklog {
				continue
			}
			free = due.Add(time.Duration(float64(len(next.data)) / rate * float64(time.Second)))
		}
		if wait := time.Until(due); wait > 0 {
			time.Sleep(wait)
		}
		_, _ = to.file.Write(next.data)
	}
}

// isData tells TCP segments of the data port, either way.
func isData(data []byte) bool {
	const ethernet, protocolTCP = 14, 6
	if len(data) < ethernet+20 || binary.BigEndian.Uint16(data[12:]) != 0x0800 || data[ethernet+9] != protocolTCP {
		return false
	}
	tcp := data[ethernet+4*int(data[ethernet]&15):]
	return len(tcp) >= 4 && (binary.BigEndian.Uint16(tcp) == plan.DataPort || binary.BigEndian.Uint16(tcp[2:]) == plan.DataPort)
}
