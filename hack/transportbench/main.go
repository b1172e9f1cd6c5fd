// SPDX-License-Identifier: Apache-2.0

// Transportbench compares the tcp transport, plain and with TLS, and shared
// memory with iperf3 between the same two network namespaces: what a link of
// given rate carries and how much CPU time each side spends on it. All take
// turns. Shared memory does not go over the link; it is there to show what ranks
// of one machine gain. It needs root, iproute2 and iperf3 (Debian package iperf3).
//
//	go run ./hack/transportbench --rounds 5 --seconds 2 [--link-rate 1gbit] [--pin]
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/local"
	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/transport/shm"
	"github.com/findep/findep-operator/runtime/transport/tcp"
)

// instance is the identity of both ends, port where the receiver listens.
const (
	instance = "findep://bench/transport/0"
	port     = "9900"
)

type options struct {
	rounds, seconds, message int
	rate, tls, share, only   string
	pin                      bool
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "turns of each contender")
	flag.IntVar(&o.seconds, "seconds", 2, "length of one turn")
	flag.IntVar(&o.message, "message", 1<<20, "payload bytes of one message")
	flag.StringVar(&o.rate, "link-rate", "", "rate of the link in tc's notation; empty means unshaped")
	flag.StringVar(&o.tls, "tls", "", "directory with certificates; empty means plain (of a child)")
	flag.StringVar(&o.share, "share", "", "directory to share memory in; empty means not to (of a child)")
	flag.StringVar(&o.only, "only", "iperf3,plain,tls,shm", "contenders")
	flag.BoolVar(&o.pin, "pin", false, "give each end one core")
	flag.Parse()
	// As ranks do, see agent.Run.
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), executor.Lanes+1))
	var err error
	switch flag.Arg(0) {
	case "receive":
		err = o.receive(flag.Arg(1))
	case "send":
		err = o.send(flag.Arg(1))
	default:
		err = o.compare()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "transportbench:", err)
		os.Exit(1)
	}
}

// outcome is one turn; CPU times are seconds per gigabyte.
type outcome struct{ BytesPerSecond, SenderCPU, ReceiverCPU float64 }

// contender runs one turn between the ends.
type contender struct {
	name string
	run  func() (outcome, error)
	all  []outcome
}

func (o *options) compare() error {
	link, err := local.NewLink(o.rate)
	if err != nil {
		return err
	}
	defer func() { _ = link.Close() }()
	place := link.Place(1, o.pin)
	dir, err := certificates()
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	contenders := []*contender{
		{name: "iperf3", run: func() (outcome, error) { return o.iperf(place) }},
		{name: "plain", run: func() (outcome, error) { return o.transport(place, "", "") }},
		{name: "tls", run: func() (outcome, error) { return o.transport(place, dir, "") }},
		{name: "shm", run: func() (outcome, error) { return o.transport(place, dir, dir) }},
	}
	contenders = slices.DeleteFunc(contenders, func(c *contender) bool { return !slices.Contains(strings.Split(o.only, ","), c.name) })
	for range o.rounds {
		for _, c := range contenders {
			r, err := c.run()
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			c.all = append(c.all, r)
		}
	}
	report(contenders)
	return nil
}

func report(contenders []*contender) {
	column := func(c *contender, value func(outcome) float64) (low, median, high float64) {
		var v []float64
		for _, r := range c.all {
			v = append(v, value(r))
		}
		slices.Sort(v)
		return v[0], v[len(v)/2], v[len(v)-1]
	}
	rate := func(r outcome) float64 { return r.BytesPerSecond / 1e6 }
	_, first, _ := column(contenders[0], rate)
	fmt.Println("contender  MB/s (min-max)          over iperf3  sender CPU s/GB  receiver CPU s/GB")
	for _, c := range contenders {
		low, median, high := column(c, rate)
		_, sender, _ := column(c, func(r outcome) float64 { return r.SenderCPU })
		_, receiver, _ := column(c, func(r outcome) float64 { return r.ReceiverCPU })
		fmt.Printf("%-9s  %7.1f (%7.1f-%7.1f)  %11.3f  %15.3f  %17.3f\n", c.name, median, low, high, median/first, sender, receiver)
	}
}

// certificates makes the identity that both ends share.
func certificates() (string, error) {
	ca, err := identity.NewCA(time.Now(), rand.Reader, "transportbench")
	if err != nil {
		return "", err
	}
	b, err := ca.Issue(time.Now(), instance, nil, "transportbench", time.Hour)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "transportbench-")
	if err != nil {
		return "", err
	}
	for name, data := range map[string][]byte{"ca.crt": b.CA, "tls.crt": b.Cert, "tls.key": b.Key} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return "", err
		}
	}
	return dir, nil
}

type placement = func(rank int) (host string, under []string)

// at is a command at one end of the link.
func at(place placement, rank int, command ...string) *exec.Cmd {
	_, under := place(rank)
	args := slices.Concat(under, command)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	return cmd
}

func (o *options) transport(place placement, tls, share string) (outcome, error) {
	self, err := os.Executable()
	if err != nil {
		return outcome{}, err
	}
	host, _ := place(1)
	args := []string{self, fmt.Sprintf("--seconds=%d", o.seconds), fmt.Sprintf("--message=%d", o.message), "--tls=" + tls, "--share=" + share}
	receiver := at(place, 1, slices.Concat(args, []string{"receive", host + ":" + port})...)
	var text strings.Builder
	receiver.Stdout = &text
	if err := receiver.Start(); err != nil {
		return outcome{}, err
	}
	sender := at(place, 0, slices.Concat(args, []string{"send", host + ":" + port})...)
	sent, err := sender.Output()
	if err != nil {
		_ = receiver.Process.Kill()
		return outcome{}, err
	}
	if err := receiver.Wait(); err != nil {
		return outcome{}, err
	}
	var r, s outcome
	if err := json.Unmarshal([]byte(text.String()), &r); err != nil {
		return outcome{}, err
	}
	r.SenderCPU = s.SenderCPU
	if err := json.Unmarshal(sent, &s); err != nil {
		return outcome{}, err
	}
	r.SenderCPU = s.SenderCPU
	return r, nil
}

// security is the identity in the directory, or nil for plain.
func (o *options) security() (*tcp.TLS, error) {
	if o.tls == "" {
		return nil, nil
	}
	source, err := identity.NewDirectory(o.tls, nil)
	if err != nil {
		return nil, err
	}
	config := identity.Config{Source: source, Peers: []string{instance}}
	t := &tcp.TLS{}
	if t.Server, err = identity.ServerTLS(config); err != nil {
		return nil, err
	}
	t.Client, err = identity.ClientTLS(config)
	return t, err
}

// mesh connects rank 0 or 1 with the other.
func (o *options) mesh(self int, listen, peer string) (transport.Mesh, func(), error) {
	security, err := o.security()
	if err != nil {
		return nil, nil, err
	}
	opts := tcp.Options{Plain: security == nil}
	if o.share != "" {
		if opts.Shared, err = shm.Listen(shm.Options{Directory: o.share}); err != nil {
			return nil, nil, err
		}
	}
	e, err := tcp.Listen(listen, security, opts)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	m, err := e.Connect(ctx, 1, self, []transport.Peer{{Rank: 1 - self, Address: peer}})
	return m, func() { _ = e.Close() }, err
}

func (o *options) receive(address string) error {
	m, stop, err := o.mesh(1, address, "")
	if err != nil {
		return err
	}
	defer stop()
	link, err := m.From(0)
	if err != nil {
		return err
	}
	payload := make([]byte, o.message)
	var start time.Time
	var before time.Duration
	bytes := 0.0
	for {
		h, err := link.ReceiveHeader()
		if err != nil {
			return err
		}
		if h.Rows == 0 {
			break
		}
		if err := link.ReceivePayload(payload); err != nil {
			return err
		}
		if start.IsZero() {
			start, before = time.Now(), cpu()
			continue
		}
		bytes += float64(len(payload))
	}
	return json.NewEncoder(os.Stdout).Encode(outcome{
		BytesPerSecond: bytes / time.Since(start).Seconds(), ReceiverCPU: (cpu() - before).Seconds() / bytes * 1e9,
	})
}

func (o *options) send(address string) error {
	m, stop, err := o.mesh(0, ":0", address)
	if err != nil {
		return err
	}
	defer stop()
	link, err := m.To(1)
	if err != nil {
		return err
	}
	payload := make([]byte, o.message)
	_, _ = rand.Read(payload)
	before, bytes := cpu(), 0.0
	for end := time.Now().Add(time.Duration(o.seconds) * time.Second); time.Now().Before(end); {
		if err := link.Send(transport.Header{Rows: 1}, payload); err != nil {
			return err
		}
		bytes += float64(len(payload))
	}
	spent := (cpu() - before).Seconds()
	if err := link.Send(transport.Header{}); err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(outcome{SenderCPU: spent / bytes * 1e9}); err != nil {
		return err
	}
	// What is still unsent goes out when the mesh closes in order.
	return m.Close()
}

// cpu is this process's time on cores.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// iperf runs iperf3 for one turn; its report has both ends.
func (o *options) iperf(place placement) (outcome, error) {
	host, _ := place(1)
	server := at(place, 1, "iperf3", "-s", "-1", "-B", host)
	if err := server.Start(); err != nil {
		return outcome{}, err
	}
	defer func() { _ = server.Wait() }()
	var out []byte
	var err error
	for range 50 {
		time.Sleep(100 * time.Millisecond)
		client := at(place, 0, "iperf3", "-c", host, "-t", fmt.Sprint(o.seconds), "-l", fmt.Sprint(o.message), "-J")
		client.Stderr = nil
		if out, err = client.Output(); err == nil {
			break
		}
	}
	if err != nil {
		_ = server.Process.Kill()
		return outcome{}, fmt.Errorf("%w: %s", err, out)
	}
	var r struct {
		End struct {
			Received struct {
				Bits float64 `json:"bits_per_second"`
			} `json:"sum_received"`
			CPU struct {
				Host   float64 `json:"host_total"`
				Remote float64 `json:"remote_total"`
			} `json:"cpu_utilization_percent"`
		} `json:"end"`
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return outcome{}, err
	}
	rate := r.End.Received.Bits / 8
	perGigabyte := func(percent float64) float64 { return percent / 100 / rate * 1e9 }
	return outcome{rate, perGigabyte(r.End.CPU.Host), perGigabyte(r.End.CPU.Remote)}, nil
}
