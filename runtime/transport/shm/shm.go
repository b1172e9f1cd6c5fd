// SPDX-License-Identifier: Apache-2.0

// Package shm carries the rows between two ranks of one machine through memory
// that both have mapped.
//
// The tcp transport remains the way by which ranks find each other and prove
// who they are. Once a connection has consent, the listening side invites the
// dialling side with a Ticket, sent over that connection and so under its TLS.
// The dialling side shows the ticket at a Unix socket of the listening side and
// hands over sealed anonymous memory (memfd) for a ring, and from then on the
// pair uses a Pipe instead of the connection. Where the socket cannot be
// reached, because the ranks run on different machines or in different network
// namespaces and share no directory, the connection stays what it is.
//
// A rank does not trust its peer with more than the bytes in the ring: the
// memory's size is fixed by seals, positions are checked each time they are
// read, and the wake-ups that bring no byte are bounded. Any process that runs
// as the same user and has one of the two ends' descriptors can read the rows,
// as it could by other means.
package shm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	nameBytes  = 16
	tokenBytes = 32
	// TicketBytes is the size of a Ticket.
	TicketBytes = nameBytes + tokenBytes

	// Sockets are called by a random name, so that a ticket cannot lead the
	// dialling side to any other socket.
	socketPrefix = "findep-"
	socketSuffix = ".sock"
	// maxPathBytes is what a Unix socket's address holds.
	maxPathBytes = 107
	// maxStale bounds the sockets that are looked at when a directory is tidied.
	maxStale = 1024
)

// Options tunes a Meeting; the zero value is good.
type Options struct {
	// Directory is where the socket is made; both sides must see the same one.
	// Empty means a socket without a file, which every process in the same
	// network namespace can reach.
	Directory string
	// RingBytes is the size of the rings that this side makes; 0 means
	// DefaultRingBytes.
	RingBytes int
	// Timeout bounds the time that one side waits for the other; 0 means 5 s.
	Timeout time.Duration
	// MaxPending bounds both invitations and visitors; 0 means 1024.
	MaxPending int
}

func (o *Options) defaults() error {
	if o.RingBytes == 0 {
		o.RingBytes = DefaultRingBytes
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	if o.MaxPending <= 0 {
		o.MaxPending = 1024
	}
	if o.Directory != "" {
		path := filepath.Join(o.Directory, socketPrefix+strings.Repeat("0", 2*nameBytes)+socketSuffix)
		if len(path) > maxPathBytes {
			return fmt.Errorf("shm: directory %q is too long: a socket in it has a path of %d bytes, the limit is %d", o.Directory, len(path), maxPathBytes)
		}
	}
	return checkRingBytes(o.RingBytes)
}

// Ticket is an invitation to share memory: where, and a secret that admits one
// visitor once.
type Ticket [TicketBytes]byte

type token [tokenBytes]byte

func (t *Ticket) name() string { return hex.EncodeToString(t[:nameBytes]) }
func (t *Ticket) token() token { return token(t[nameBytes:]) }

// Meeting is where other ranks of this machine come to share memory with this
// one, and what visits theirs.
type Meeting struct {
	opts     Options
	name     [nameBytes]byte
	listener *net.UnixListener
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	slots    chan struct{}

	mu      sync.Mutex
	invited map[token]*Invitation
}

// Listen opens a meeting's socket.
func Listen(o Options) (*Meeting, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	m := &Meeting{opts: o, slots: make(chan struct{}, o.MaxPending), invited: map[token]*Invitation{}}
	_, _ = rand.Read(m.name[:]) // It never fails.
	if o.Directory != "" {
		tidy(o.Directory)
	}
	listener, err := net.ListenUnix("unix", m.address(hex.EncodeToString(m.name[:])))
	if err != nil {
		return nil, fmt.Errorf("shm: listen for ranks of this machine: %w", err)
	}
	m.listener = listener
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.wg.Go(m.accept)
	return m, nil
}

// address is a socket's address as both sides see it.
func (m *Meeting) address(name string) *net.UnixAddr {
	if m.opts.Directory == "" {
		return &net.UnixAddr{Net: "unix", Name: "@" + socketPrefix + name}
	}
	return &net.UnixAddr{Net: "unix", Name: filepath.Join(m.opts.Directory, socketPrefix+name+socketSuffix)}
}

// tidy removes the sockets of processes that were killed. A process that has
// made its socket and does not listen yet is taken for one of them; its peers
// then stay with tcp.
func tidy(directory string) {
	old, _ := filepath.Glob(filepath.Join(directory, socketPrefix+"*"+socketSuffix))
	for _, path := range old[:min(len(old), maxStale)] {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: path})
		if err == nil {
			_ = c.Close()
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			_ = os.Remove(path)
		}
	}
}

// Close ends the meeting; nobody is admitted any more. Pipes that were made stay.
func (m *Meeting) Close() error {
	m.cancel()
	err := m.listener.Close()
	m.wg.Wait()
	return err
}

// Invitation waits for one visitor.
type Invitation struct {
	Ticket Ticket

	meeting *Meeting
	writes  bool
	// arrived is the visitor's pipe, over set when nobody takes it any more;
	// the meeting's lock guards both.
	arrived *Pipe
	over    bool
}

// Invite lets one visitor in, with whom this side then shares a pipe on which
// it writes or reads. Take or Withdraw must be called.
func (m *Meeting) Invite(writes bool) (*Invitation, error) {
	i := &Invitation{meeting: m, writes: writes}
	copy(i.Ticket[:], m.name[:])
	_, _ = rand.Read(i.Ticket[nameBytes:]) // It never fails.
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return nil, net.ErrClosed
	}
	if len(m.invited) >= m.opts.MaxPending {
		return nil, fmt.Errorf("shm: %d invitations wait already", m.opts.MaxPending)
	}
	m.invited[i.Ticket.token()] = i
	return i, nil
}

// Take ends the invitation and returns the visitor's pipe. The visitor must
// have said by other means that it was admitted.
func (i *Invitation) Take() (*Pipe, error) {
	p := i.end()
	if p == nil {
		return nil, errors.New("shm: the peer did not come to share memory")
	}
	return p, nil
}

// Withdraw ends the invitation, and the visitor's pipe unless it was taken.
func (i *Invitation) Withdraw() {
	if p := i.end(); p != nil {
		p.Close()
	}
}

func (i *Invitation) end() *Pipe {
	i.meeting.mu.Lock()
	defer i.meeting.mu.Unlock()
	delete(i.meeting.invited, i.Ticket.token())
	p := i.arrived
	i.arrived, i.over = nil, true
	return p
}

// arrive hands the visitor's pipe over; false means that nobody waits for it.
func (i *Invitation) arrive(p *Pipe) bool {
	i.meeting.mu.Lock()
	defer i.meeting.mu.Unlock()
	if i.over {
		return false
	}
	i.arrived = p
	return true
}

func (m *Meeting) accept() {
	for {
		c, err := m.listener.AcceptUnix()
		if err != nil {
			if m.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, for instance: others may become free.
			select {
			case <-time.After(50 * time.Millisecond):
			case <-m.ctx.Done():
			}
			continue
		}
		select {
		case m.slots <- struct{}{}:
			m.wg.Go(func() {
				defer func() { <-m.slots }()
				if err := m.welcome(c); err != nil {
					_ = c.Close()
				}
			})
		default:
			_ = c.Close()
		}
	}
}

// welcome admits a visitor who has a ticket and memory.
func (m *Meeting) welcome(c *net.UnixConn) error {
	_ = c.SetDeadline(time.Now().Add(m.opts.Timeout))
	stop := context.AfterFunc(m.ctx, func() { _ = c.Close() })
	defer stop()
	if err := sameUser(c); err != nil {
		return err
	}
	shown, file, err := receive(c)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	m.mu.Lock()
	i := m.invited[shown]
	delete(m.invited, shown) // A ticket admits once.
	m.mu.Unlock()
	if i == nil {
		return errors.New("shm: no such ticket")
	}
	p, err := newPipe(file, c, i.writes)
	if err != nil {
		return err
	}
	_ = c.SetDeadline(time.Time{})
	if !i.arrive(p) {
		p.Close()
		return errors.New("shm: the invitation was withdrawn")
	}
	// Only now may the visitor say that it was admitted.
	_, err = c.Write(ding)
	return err
}

// Visit goes to the meeting that the ticket is for and returns the pipe on which
// this side writes or reads.
func (m *Meeting) Visit(ctx context.Context, t Ticket, writes bool) (*Pipe, error) {
	ctx, cancel := context.WithTimeout(ctx, m.opts.Timeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", m.address(t.name()).Name)
	if err != nil {
		return nil, fmt.Errorf("shm: %w", err)
	}
	c := conn.(*net.UnixConn)
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	p, err := m.show(c, t, writes)
	if err == nil && !stop() {
		p.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	_ = c.SetDeadline(time.Time{})
	return p, nil
}

// show presents ticket and memory to a process of the same user.
func (m *Meeting) show(c *net.UnixConn, t Ticket, writes bool) (*Pipe, error) {
	if err := sameUser(c); err != nil {
		return nil, err
	}
	return m.present(c, t, writes)
}

// present hands over ticket and memory and waits to be admitted.
func (m *Meeting) present(c *net.UnixConn, t Ticket, writes bool) (*Pipe, error) {
	file, err := newMemory(m.opts.RingBytes)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	secret := t.token()
	if _, _, err := c.WriteMsgUnix(secret[:], unix.UnixRights(int(file.Fd())), nil); err != nil {
		return nil, fmt.Errorf("shm: hand over the memory: %w", err)
	}
	var answer [1]byte
	if _, err := c.Read(answer[:]); err != nil {
		return nil, fmt.Errorf("shm: not admitted: %w", err)
	}
	return newPipe(file, c, writes)
}

// sameUser refuses a process of another user: the one user's processes can read
// each other's memory anyway.
func sameUser(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("shm: %w", err)
	}
	var peer *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || failed != nil {
		return fmt.Errorf("shm: the peer's credentials: %w", errors.Join(err, failed))
	}
	if own := os.Geteuid(); int64(peer.Uid) != int64(own) {
		return fmt.Errorf("shm: the peer runs as user %d, this rank as %d; run both as the same user to share memory", peer.Uid, own)
	}
	return nil
}

// receive reads a token and the descriptor that comes with it.
func receive(c *net.UnixConn) (token, *os.File, error) {
	var shown token
	// Room for one descriptor; the kernel closes what does not fit.
	control := make([]byte, unix.CmsgSpace(4))
	n, controlled, flags, _, err := c.ReadMsgUnix(shown[:], control)
	if err != nil {
		return token{}, nil, fmt.Errorf("shm: ticket: %w", err)
	}
	file, err := descriptor(control[:controlled])
	switch {
	case err != nil:
		return token{}, nil, err
	case n != len(shown) || flags&unix.MSG_CTRUNC != 0:
		_ = file.Close()
		return token{}, nil, fmt.Errorf("shm: ticket has %d bytes, want %d, and one descriptor", n, len(shown))
	}
	return shown, file, nil
}

func descriptor(control []byte) (*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, fmt.Errorf("shm: %w", err)
	}
	var all []int
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			all = append(all, fds...)
		}
	}
	if len(all) == 1 {
		return os.NewFile(uintptr(all[0]), "findep-ring"), nil
	}
	for _, fd := range all {
		_ = unix.Close(fd)
	}
	return nil, fmt.Errorf("shm: the ticket came with %d descriptors, want 1", len(all))
}
