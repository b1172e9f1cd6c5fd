// SPDX-License-Identifier: Apache-2.0

package shm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/findep/findep-operator/runtime/solver"
)

func TestOptionsAreChecked(t *testing.T) {
	for name, tc := range map[string]struct {
		o    Options
		want string
	}{
		"no power of two": {Options{RingBytes: 100_000}, "ring has 100000 bytes; use a power of two"},
		"too small":       {Options{RingBytes: MinRingBytes / 2}, "ring has 32768 bytes"},
		"too large":       {Options{RingBytes: 2 * MaxRingBytes}, "ring has 134217728 bytes"},
		"long directory":  {Options{Directory: "/" + strings.Repeat("d", 80)}, "is too long"},
		"no directory":    {Options{Directory: "/nowhere/at/all"}, "no such file"},
	} {
		if m, err := Listen(tc.o); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, %v, want %q in it", name, m, err, tc.want)
		}
	}
}

// TestTickets: only a ticket that was given, not withdrawn and not used admits.
func TestTickets(t *testing.T) {
	invite := func(t *testing.T, m *Meeting) *Invitation {
		i, err := m.Invite(false)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	for name, tc := range map[string]struct {
		spoil func(t *testing.T, m *Meeting, i *Invitation)
		want  string
	}{
		"another secret": {func(_ *testing.T, _ *Meeting, i *Invitation) { i.Ticket[TicketBytes-1]++ }, "not admitted"},
		"another place":  {func(_ *testing.T, _ *Meeting, i *Invitation) { i.Ticket[0]++ }, "connection refused"},
		"withdrawn":      {func(_ *testing.T, _ *Meeting, i *Invitation) { i.Withdraw() }, "not admitted"},
		"meeting over":   {func(_ *testing.T, m *Meeting, _ *Invitation) { _ = m.Close() }, "connection refused"},
		"used": {func(t *testing.T, m *Meeting, i *Invitation) {
			p, err := m.Visit(context.Background(), i.Ticket, true)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.Close)
		}, "not admitted"},
	} {
		t.Run(name, func(t *testing.T) {
			m, other := meeting(t, Options{}), meeting(t, Options{})
			i := invite(t, m)
			defer i.Withdraw()
			tc.spoil(t, m, i)
			if p, err := other.Visit(context.Background(), i.Ticket, true); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, %v, want %q in it", p, err, tc.want)
			}
		})
	}
	t.Run("none came", func(t *testing.T) {
		if _, err := invite(t, meeting(t, Options{})).Take(); err == nil {
			t.Error("there is a pipe")
		}
	})
}

func TestInvitationsAreBounded(t *testing.T) {
	m := meeting(t, Options{MaxPending: 2})
	var all []*Invitation
	for range 2 {
		i, err := m.Invite(true)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, i)
	}
	if _, err := m.Invite(true); err == nil || !strings.Contains(err.Error(), "2 invitations wait already") {
		t.Errorf("a third: %v", err)
	}
	all[0].Withdraw()
	if _, err := m.Invite(true); err != nil {
		t.Errorf("after one was withdrawn: %v", err)
	}
}

// TestVisitorsWithoutGoodMemory: whatever comes with a good ticket, neither
// memory nor descriptors are kept.
func TestVisitorsWithoutGoodMemory(t *testing.T) {
	memfd := func(t *testing.T, size int64, seal int) int {
		fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		if err := unix.Ftruncate(fd, size); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seal); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	const good = headerBytes + MinRingBytes
	for name, tc := range map[string]struct {
		fds   func(t *testing.T) []int
		short bool
	}{
		"none":     {func(*testing.T) []int { return nil }, false},
		"two":      {func(t *testing.T) []int { return []int{memfd(t, good, seals), memfd(t, good, seals)} }, false},
		"many":     {func(t *testing.T) []int { fd := memfd(t, good, seals); return []int{fd, fd, fd, fd, fd} }, false},
		"no seals": {func(t *testing.T) []int { return []int{memfd(t, good, 0)} }, false},
		"may grow": {func(t *testing.T) []int { return []int{memfd(t, good, unix.F_SEAL_SHRINK)} }, false},
		"empty":    {func(t *testing.T) []int { return []int{memfd(t, 0, seals)} }, false},
		"odd size": {func(t *testing.T) []int { return []int{memfd(t, good+4096, seals)} }, false},
		"huge":     {func(t *testing.T) []int { return []int{memfd(t, headerBytes+2*MaxRingBytes, seals)} }, false},
		"a file": {func(t *testing.T) []int {
			f, err := os.Create(filepath.Join(t.TempDir(), "file"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = f.Close() })
			if err := f.Truncate(good); err != nil {
				t.Fatal(err)
			}
			return []int{int(f.Fd())}
		}, false},
		"half a ticket": {func(t *testing.T) []int { return []int{memfd(t, good, seals)} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := meeting(t, Options{})
			i, err := m.Invite(false)
			if err != nil {
				t.Fatal(err)
			}
			defer i.Withdraw()
			fds, before := tc.fds(t), descriptors(t)
			c, err := net.DialUnix("unix", nil, m.address(i.Ticket.name()))
			if err != nil {
				t.Fatal(err)
			}
			secret := i.Ticket.token()
			shown := secret[:]
			if tc.short {
				shown = shown[:tokenBytes/2]
			}
			var rights []byte
			if len(fds) > 0 {
				rights = unix.UnixRights(fds...)
			}
			if _, _, err := c.WriteMsgUnix(shown, rights, nil); err != nil {
				t.Fatal(err)
			}
			if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("admitted: %d, %v", n, err)
			}
			_ = c.Close()
			if p, err := i.Take(); err == nil {
				t.Errorf("there is a pipe: %v", p)
			}
			for deadline := time.Now().Add(time.Minute); descriptors(t) > before; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%d descriptors are open, %d were", descriptors(t), before)
				}
			}
		})
	}
}

func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestPlansCountTheRings: what the solver keeps free for a link is what a ring
// of the default size takes.
func TestPlansCountTheRings(t *testing.T) {
	if DefaultRingBytes != solver.LinkBufferBytes {
		t.Errorf("a ring has %d bytes, the solver counts %d", DefaultRingBytes, solver.LinkBufferBytes)
	}
}

// TestSilentVisitorsLeave: who says nothing is not waited for.
func TestSilentVisitorsLeave(t *testing.T) {
	m := meeting(t, Options{Timeout: 50 * time.Millisecond})
	c, err := net.DialUnix("unix", nil, m.address(fmt.Sprintf("%x", m.name)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestSilentHostsAreLeft: a visitor does not wait for ever either.
func TestSilentHostsAreLeft(t *testing.T) {
	m := meeting(t, Options{Timeout: 50 * time.Millisecond})
	var ticket Ticket
	_, _ = rand.Read(ticket[:]) // Another process may run the same test.
	silent, err := net.ListenUnix("unix", m.address(ticket.name()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	if p, err := m.Visit(context.Background(), ticket, true); err == nil {
		t.Errorf("there is a pipe: %v", p)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := m.Visit(ctx, ticket, true); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestOtherUsersAreRefused needs root, to start a process of another user.
func TestOtherUsersAreRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can start a process of another user")
	}
	directory, err := os.MkdirTemp("/tmp", "shm-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(directory) }()
	if err := os.Chmod(directory, 0o777); err != nil { //nolint:gosec // The other user must get in.
		t.Fatal(err)
	}
	m := meeting(t, Options{Directory: directory})
	i, err := m.Invite(false)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Withdraw()
	// Even where the socket itself lets everybody in.
	if err := os.Chmod(m.listener.Addr().String(), 0o777); err != nil { //nolint:gosec // As above.
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		env  []string
		want string
	}{
		{"by the visitor", nil, "the peer runs as user 0, this rank as 65534"},
		{"by the host", []string{"SHM_TEST_RUDE=1"}, "shm: "},
	} {
		cmd, out := spawn(t, directory, i.Ticket, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}, tc.env...)
		_ = cmd.Wait()
		if !strings.Contains(out.String(), tc.want) {
			t.Errorf("refusal %s: exit %d, %q, want %q in it", tc.name, cmd.ProcessState.ExitCode(), out.String(), tc.want)
		}
	}
	if _, err := i.Take(); err == nil {
		t.Error("there is a pipe")
	}
}
