// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"time"
)

// How often, and how long at most, a rank tries to reach another one.
const (
	dialPause  = 200 * time.Millisecond
	dialWithin = 5 * time.Minute
	// helloWithin bounds the wait for the first line of whoever connects.
	helloWithin = 5 * time.Second
)

// hello is what a rank tells the first one when it has reached every port.
type hello struct {
	WorldRank int    `json:"worldRank"`
	Agreed    string `json:"agreed"`
}

// welcome is the answer once all ranks have come, or why one must not come.
type welcome struct {
	Problem string `json:"problem,omitempty"`
}

// world is one rank's part in the rendezvous of all.
type world struct {
	c         *config
	listeners []net.Listener
	// base is the listener of the first rank; nil for others.
	base net.Listener
}

// listen opens the ports that belong to a rank.
func listen(ctx context.Context, c *config) (*world, error) {
	w := &world{c: c}
	open := func(address string, port int) (net.Listener, error) {
		l, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
		if err != nil {
			w.close()
			return nil, err
		}
		w.listeners = append(w.listeners, l)
		return l, nil
	}
	var err error
	if c.worldRank() == 0 {
		if err := ownAddress(ctx, c.afd.Host); err != nil {
			return nil, err
		}
		if w.base, err = open("", c.afd.Port); err != nil {
			return nil, err
		}
	}
	if c.afd.Role == "ffn" && c.subgroupPorts {
		// Older plugins bind it at the address of the first rank, whoever they are.
		l, err := open(c.afd.Host, c.afd.Port+1+c.roleRank)
		if err != nil {
			return nil, fmt.Errorf("the port of ffn rank %d: %w", c.roleRank, err)
		}
		go drop(l)
	}
	if c.roleRank == 0 && c.roleSize() > 1 {
		l, err := open("", c.rpcPort)
		if err != nil {
			return nil, err
		}
		go drop(l)
	}
	return w, nil
}

func (w *world) close() {
	for _, l := range w.listeners {
		_ = l.Close()
	}
}

// drop accepts connections and closes them: that they come is all that matters.
func drop(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = c.Close()
	}
}

// ownAddress refuses a host that is another pod's: the first ffn rank has the
// rendezvous.
func ownAddress(ctx context.Context, host string) error {
	deadline, own := time.Now().Add(dialWithin), os.Getenv("VLLM_HOST_IP")
	for {
		addresses, err := net.LookupHost(host)
		switch {
		case err == nil && slices.Contains(addresses, own):
			return nil
		case time.Now().After(deadline), ctx.Err() != nil:
			return fmt.Errorf("afd.host %s is %v (%w), but the first ffn rank is %s", host, addresses, err, own)
		}
		time.Sleep(dialPause)
	}
}

// targets are the addresses that a rank must reach.
func (c *config) targets() []string {
	at := func(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
	var list []string
	if c.subgroupPorts {
		for k := range c.afd.FFNRanks {
			list = append(list, at(c.afd.Host, c.afd.Port+1+k))
		}
	}
	if c.roleSize() > 1 {
		list = append(list, at(c.address, c.rpcPort))
	}
	return list
}

// join reaches every port, says so to the first rank and waits for all others to
// have done the same.
func (w *world) join(ctx context.Context) (net.Conn, error) {
	for _, target := range w.c.targets() {
		conn, err := dial(ctx, target)
		if err != nil {
			return nil, err
		}
		_ = conn.Close()
	}
	conn, err := dial(ctx, net.JoinHostPort(w.c.afd.Host, strconv.Itoa(w.c.afd.Port)))
	if err != nil {
		return nil, err
	}
	// Told to stop while it waits, a rank stops.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := send(conn, hello{w.c.worldRank(), w.c.agreed}); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(conn).ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("waiting for all ranks: %w", err)
	}
	var answer welcome
	if err := json.Unmarshal(line, &answer); err != nil {
		return nil, err
	}
	if answer.Problem != "" {
		return nil, errors.New(answer.Problem)
	}
	return conn, nil
}

func dial(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	for {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot reach %s: %w", address, err)
		case <-time.After(dialPause):
		}
	}
}

// admit is the first rank's work: it lets every rank of the world in once, and
// ends the world when one is lost.
func (w *world) admit(ctx context.Context, cancel context.CancelCauseFunc) {
	if w.base == nil {
		return
	}
	ranks := map[int]net.Conn{}
	for len(ranks) < w.c.worldSize() {
		conn, err := w.base.Accept()
		if err != nil {
			cancel(err)
			return
		}
		var h hello
		_ = conn.SetReadDeadline(time.Now().Add(helloWithin))
		if err := json.NewDecoder(conn).Decode(&h); err != nil {
			_ = conn.Close()
			continue
		}
		_ = conn.SetReadDeadline(time.Time{})
		if problem := w.refuses(h, ranks); problem != "" {
			_ = send(conn, welcome{problem})
			_ = conn.Close()
			continue
		}
		ranks[h.WorldRank] = conn
	}
	for _, conn := range ranks {
		_ = send(conn, welcome{})
	}
	for rank, conn := range ranks {
		go func() {
			_, err := conn.Read(make([]byte, 1))
			if ctx.Err() == nil {
				cancel(fmt.Errorf("world rank %d is lost: %w", rank, err))
			}
		}()
	}
}

// send writes one line of JSON. Whom it does not reach has gone, which the
// connection tells.
func send(w io.Writer, message any) error {
	line, err := json.Marshal(message)
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// alive says that a rank which came before has not gone since.
func alive(conn net.Conn) bool {
	if conn == nil {
		return false
	}
	_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := conn.Read(make([]byte, 1))
	_ = conn.SetReadDeadline(time.Time{})
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// refuses says what is wrong with a rank that comes.
func (w *world) refuses(h hello, ranks map[int]net.Conn) string {
	switch {
	case h.WorldRank < 0 || h.WorldRank >= w.c.worldSize():
		return fmt.Sprintf("there is no world rank %d", h.WorldRank)
	case alive(ranks[h.WorldRank]):
		return fmt.Sprintf("world rank %d is here twice", h.WorldRank)
	case h.Agreed != w.c.agreed:
		return fmt.Sprintf("world rank %d was started with %s, the first with %s", h.WorldRank, h.Agreed, w.c.agreed)
	}
	return ""
}
