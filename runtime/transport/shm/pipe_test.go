// SPDX-License-Identifier: Apache-2.0

package shm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/findep/findep-operator/runtime/transport/shm/shmtest"
)

// TestMain lets the test binary be the process at the other end.
func TestMain(m *testing.M) {
	if directory := os.Getenv("SHM_TEST_DIRECTORY"); directory != "" {
		os.Exit(visitor(directory))
	}
	os.Exit(m.Run())
}

func meeting(t testing.TB, o Options) *Meeting {
	t.Helper()
	m, err := Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// pipes is the two ends of one ring.
func pipes(t testing.TB, ringBytes int) (writer, reader *Pipe) {
	t.Helper()
	m := meeting(t, Options{RingBytes: ringBytes})
	i, err := m.Invite(false)
	if err != nil {
		t.Fatal(err)
	}
	if writer, err = m.Visit(context.Background(), i.Ticket, true); err != nil {
		t.Fatal(err)
	}
	if reader, err = i.Take(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		writer.Close()
		reader.Close()
	})
	return writer, reader
}

// fill makes bytes that tell their position.
func fill(n int) []byte {
	b := make([]byte, n+8)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], uint64(i)*0x9e3779b97f4a7c15)
	}
	return b[:n]
}

// TestWhatIsWrittenIsRead: cut at random places on both sides, around the end
// of the ring many times.
func TestWhatIsWrittenIsRead(t *testing.T) {
	for _, ringBytes := range []int{MinRingBytes, 4 * MinRingBytes} {
		w, r := pipes(t, ringBytes)
		want := fill(20 * ringBytes)
		var sent sync.WaitGroup
		sent.Go(func() {
			random := rand.New(rand.NewPCG(1, 0))
			for rest := want; len(rest) > 0; {
				n := min(len(rest), random.IntN(3*ringBytes/(1+random.IntN(1000))+1))
				m := random.IntN(n + 1)
				if err := w.Write(rest[:m], nil, rest[m:n]); err != nil {
					t.Error(err)
				}
				rest = rest[n:]
			}
		})
		random := rand.New(rand.NewPCG(2, 0))
		got := make([]byte, len(want))
		for rest := got; len(rest) > 0; {
			n := min(len(rest), random.IntN(3*ringBytes/(1+random.IntN(1000))+1))
			// The reader may wait for all that is known to come, or for this alone.
			certain := uint64(len(rest))
			if random.IntN(2) == 0 {
				certain = uint64(n)
			}
			if err := r.Read(rest[:n], certain); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		sent.Wait()
		if !bytes.Equal(got, want) {
			t.Errorf("ring of %d: the bytes arrived changed", ringBytes)
		}
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	w, r := pipes(t, MinRingBytes)
	out, in := [][]byte{fill(1000), fill(MinRingBytes / 2)}, make([]byte, 1000+MinRingBytes/2)
	if n := testing.AllocsPerRun(100, func() {
		if err := errors.Join(w.Write(out...), r.Read(in, uint64(len(in)))); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per message", n)
	}
}

func TestEndsKnowWhatTheyAre(t *testing.T) {
	w, r := pipes(t, MinRingBytes)
	if err := w.Read(make([]byte, 1), 1); err == nil {
		t.Error("the writer reads")
	}
	if err := r.Write([]byte{1}); err == nil {
		t.Error("the reader writes")
	}
}

func TestClosingOneEnd(t *testing.T) {
	t.Run("the reader reads what was written, then the end", func(t *testing.T) {
		w, r := pipes(t, MinRingBytes)
		if err := w.Write([]byte("last words")); err != nil {
			t.Fatal(err)
		}
		w.Close()
		got := make([]byte, 10)
		if err := r.Read(got, 10); err != nil || string(got) != "last words" {
			t.Errorf("%q, %v", got, err)
		}
		if err := r.Read(got, 10); !errors.Is(err, io.EOF) {
			t.Errorf("after the end: %v", err)
		}
	})
	t.Run("the writer fails once the ring is full", func(t *testing.T) {
		w, r := pipes(t, MinRingBytes)
		r.Close()
		if err := w.Write(make([]byte, MinRingBytes+1)); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("calls of the closed end fail", func(t *testing.T) {
		w, r := pipes(t, MinRingBytes)
		w.Close()
		r.Close()
		r.Close()
		if err := errors.Join(w.Write([]byte{1}), r.Read(make([]byte, 1), 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("error %v", err)
		}
	})
}

// TestCloseWakesAndUnmapsAfterTheLastCall: a call in progress must neither wait
// for ever nor touch memory that is gone, which would kill the process.
func TestCloseWakesAndUnmapsAfterTheLastCall(t *testing.T) {
	for range 50 {
		w, r := pipes(t, MinRingBytes)
		ended := make(chan error, 2)
		go func() {
			for {
				if err := w.Write(fill(MinRingBytes / 3)); err != nil {
					ended <- err
					return
				}
			}
		}()
		go func() {
			for in := make([]byte, 5000); ; {
				if err := r.Read(in, 5000); err != nil {
					ended <- err
					return
				}
			}
		}()
		time.Sleep(time.Duration(rand.IntN(500)) * time.Microsecond)
		w.Close()
		r.Close()
		for range 2 {
			if err := <-ended; !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("a call ended with %v", err)
			}
		}
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(maps, []byte("memfd:findep-ring")); n > 0 {
		t.Errorf("%d mappings are left", n)
	}
}

// visitor is a process that shares memory, writes without end and is killed.
func visitor(directory string) int {
	m, err := Listen(Options{Directory: directory})
	if err != nil {
		return 2
	}
	var ticket Ticket
	if _, err := io.ReadFull(os.Stdin, ticket[:]); err != nil {
		return 3
	}
	visit := m.Visit
	if os.Getenv("SHM_TEST_RUDE") != "" {
		visit = m.rude
	}
	p, err := visit(context.Background(), ticket, true)
	if err != nil {
		_, _ = os.Stdout.WriteString(err.Error())
		return 4
	}
	for p.Write(fill(1000)) == nil {
		continue
	}
	return 5
}

// rude visits without asking who is there.
func (m *Meeting) rude(_ context.Context, t Ticket, writes bool) (*Pipe, error) {
	c, err := net.DialUnix("unix", nil, m.address(t.name()))
	if err != nil {
		return nil, err
	}
	return m.present(c, t, writes)
}

// spawn starts a visitor of a meeting in the directory.
func spawn(t *testing.T, directory string, ticket Ticket, attr *syscall.SysProcAttr, env ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(env, "SHM_TEST_DIRECTORY="+directory)
	cmd.Stdin = bytes.NewReader(ticket[:])
	var out bytes.Buffer
	cmd.Stdout, cmd.SysProcAttr = &out, attr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, &out
}

func TestAKilledProcessIsNoticedAndTidiedUp(t *testing.T) {
	directory := shmtest.Directory(t)
	m := meeting(t, Options{Directory: directory})
	i, err := m.Invite(false)
	if err != nil {
		t.Fatal(err)
	}
	cmd, _ := spawn(t, directory, i.Ticket, nil)
	var p *Pipe
	for deadline := time.Now().Add(time.Minute); p == nil; { // The visitor tells nobody that it was admitted.
		if time.Now().After(deadline) {
			t.Fatal("nobody came")
		}
		m.mu.Lock()
		p = i.arrived
		m.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	defer i.Withdraw()
	got := make([]byte, 1000)
	for range 500 {
		if err := p.Read(got, 1000); err != nil || !bytes.Equal(got, fill(1000)) {
			t.Fatalf("from another process: %v", err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for err = nil; err == nil; {
		err = p.Read(got, 1000)
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("the reader ended with %v", err)
	}
	// Its socket is left over until the next meeting in that directory.
	count := func() int {
		entries, err := os.ReadDir(directory)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	if n := count(); n != 2 {
		t.Errorf("%d sockets, want that of this process and the one left over", n)
	}
	meeting(t, Options{Directory: directory})
	if n := count(); n != 2 {
		t.Errorf("%d sockets, want those of the two meetings here", n)
	}
}
