// SPDX-License-Identifier: Apache-2.0

// Package local runs one instance as processes of this machine, one per rank,
// wired exactly as the pods of a deployment are: the same configuration file,
// the same mutual TLS, the same sockets. It is what `findep run` and the
// process-level tests stand on.
package local

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/plan"
)

// Host is the address all ranks listen on.
const Host = "127.0.0.1"

// stopGrace is how long a rank may take to end by itself.
const stopGrace = 5 * time.Second

// Options describe the instance to start.
type Options struct {
	// ModelDir holds config.json, the weights and the tokenizer.
	ModelDir string
	// ModelName is the public name; empty means the directory's name.
	ModelName string
	// Attention and Expert are the group sizes.
	Attention, Expert int
	// MaxContextTokens bounds one sequence.
	MaxContextTokens int
	// Schedule is how plans are chosen.
	Schedule plan.Schedule
	// Command is the program of one rank with its leading arguments; rank
	// flags are appended. Usually the own executable and "rank".
	Command []string
	// ExtraArgs are appended after the rank flags.
	ExtraArgs []string
	// Place, if set, says where a rank runs: the address it listens on and a
	// command to run it under (ip netns exec, taskset); nil means this machine's
	// loopback address and no such command.
	Place func(rank int) (host string, under []string)
	// Log receives the ranks' standard error; nil discards it.
	Log io.Writer
}

// Instance is a running set of rank processes.
type Instance struct {
	// Config is what the ranks were told.
	Config *plan.Instance

	dir     string
	options Options
	ports   reservation
	mu      sync.Mutex
	ranks   []*process
}

type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid after done
}

// ended is how a process ended, which without an error means too early.
func (p *process) ended() error {
	if p.err == nil {
		return errors.New("exit status 0")
	}
	return p.err
}

// Start writes the configuration and certificates to a temporary directory and
// starts all ranks. It does not wait until they have formed. Stop must be
// called whatever happens later.
func Start(ctx context.Context, o Options) (*Instance, error) {
	config, err := newConfig(o)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "findep-")
	if err != nil {
		return nil, fmt.Errorf("local instance: %w", err)
	}
	in := &Instance{Config: config, dir: dir, options: o, ranks: make([]*process, config.WorldSize())}
	if config.Ports, in.ports, err = reserve(config.WorldSize()); err != nil {
		in.Stop()
		return nil, err
	}
	if err := in.prepare(); err != nil {
		in.Stop()
		return nil, err
	}
	for rank := range in.ranks {
		if err := in.StartRank(ctx, rank); err != nil {
			in.Stop()
			return nil, err
		}
	}
	return in, nil
}

func (o *Options) place(rank int) (host string, under []string) {
	if o.Place == nil {
		return Host, nil
	}
	return o.Place(rank)
}

func newConfig(o Options) (*plan.Instance, error) {
	dir, err := filepath.Abs(o.ModelDir)
	if err != nil {
		return nil, fmt.Errorf("local instance: model directory %q: %w", o.ModelDir, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "config.json")); err != nil {
		return nil, fmt.Errorf("local instance: model directory %q has no config.json: %w", o.ModelDir, err)
	}
	name := o.ModelName
	if name == "" {
		name = filepath.Base(dir)
	}
	world := o.Attention + o.Expert
	config := &plan.Instance{
		Namespace: "local", Deployment: "local", Revision: "local",
		AttentionRanks: o.Attention, ExpertRanks: o.Expert,
		Model:    plan.ModelRef{Name: name, Path: dir, MaxContextTokens: o.MaxContextTokens},
		Schedule: o.Schedule,
		Start:    plan.Plan{Policy: o.Schedule.Policy, MicroBatchSize: 1, R1: 1, R2: 1, Order: plan.ASAS, Chunks: 1},
	}
	for rank := range max(0, min(world, plan.MaxRanks)) {
		host, _ := o.place(rank)
		config.Hosts = append(config.Hosts, host)
	}
	if err := config.Validate(); err != nil {
		return nil, err
	}
	return config, nil
}

// prepare writes instance.json and the TLS material of the instance.
func (in *Instance) prepare() error {
	if err := in.WriteConfig(); err != nil {
		return err
	}
	now := time.Now()
	ca, err := identity.NewCA(now, rand.Reader, "local")
	if err != nil {
		return err
	}
	bundle, err := ca.Issue(now, in.Config.Identity(), []string{Host}, "instance", 24*time.Hour)
	if err != nil {
		return err
	}
	return in.WriteTLS(bundle)
}

// WriteTLS replaces the instance's certificate.
func (in *Instance) WriteTLS(b *identity.Bundle) error {
	if err := os.MkdirAll(in.tlsDir(), 0o700); err != nil {
		return fmt.Errorf("local instance: %w", err)
	}
	for name, data := range map[string][]byte{"ca.crt": b.CA, "tls.crt": b.Cert, "tls.key": b.Key} {
		if err := os.WriteFile(filepath.Join(in.tlsDir(), name), data, 0o600); err != nil {
			return fmt.Errorf("local instance: %w", err)
		}
	}
	return nil
}

// WriteConfig writes Config to the file that the ranks watch, in one step as a
// ConfigMap volume does.
func (in *Instance) WriteConfig() error {
	b, err := json.Marshal(in.Config)
	if err != nil {
		return fmt.Errorf("local instance: %w", err)
	}
	file := filepath.Join(in.dir, plan.InstanceFile)
	if err := os.WriteFile(file+".new", b, 0o600); err != nil {
		return fmt.Errorf("local instance: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("local instance: %w", err)
	}
	return nil
}

// StartRank starts one rank's process. Where it ran before it waits for that
// process to end, which still holds the rank's ports.
func (in *Instance) StartRank(ctx context.Context, rank int) error {
	if err := in.ended(ctx, rank); err != nil {
		return err
	}
	host, under := in.options.place(rank)
	args := slices.Concat(under, in.options.Command, []string{
		"--config-dir", in.dir, "--tls-dir", in.tlsDir(), "--socket", in.Socket(rank),
		"--rank", strconv.Itoa(rank), "--listen-host", host,
	}, in.options.ExtraArgs)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace
	cmd.Stderr = in.options.Log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("local instance: start rank %d: %w", rank, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	in.mu.Lock()
	in.ranks[rank] = p
	in.mu.Unlock()
	return nil
}

func (in *Instance) ended(ctx context.Context, rank int) error {
	in.mu.Lock()
	before := in.ranks[rank]
	in.mu.Unlock()
	if before == nil {
		return nil
	}
	select {
	case <-before.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("local instance: rank %d is still running: %w", rank, ctx.Err())
	}
}

// Socket is the Engine socket of a rank.
func (in *Instance) Socket(rank int) string {
	return filepath.Join(in.dir, fmt.Sprintf("rank%d.sock", rank))
}

func (in *Instance) tlsDir() string { return filepath.Join(in.dir, "tls") }

// Log is what Options.Log holds, if it can say so.
func (in *Instance) Log() string {
	if s, ok := in.options.Log.(fmt.Stringer); ok {
		return s.String()
	}
	return ""
}

// TLSDir is the directory with the instance's certificate.
func (in *Instance) TLSDir() string { return in.tlsDir() }

// Process is the process of a rank, to be signalled by tests.
func (in *Instance) Process(rank int) *os.Process {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.ranks[rank].cmd.Process
}

// Failed returns an error once a rank has ended by itself, nil while all run.
func (in *Instance) Failed() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	for rank, p := range in.ranks {
		if p == nil {
			continue
		}
		select {
		case <-p.done:
			return fmt.Errorf("rank %d ended by itself (%w)", rank, p.ended())
		default:
		}
	}
	return nil
}

// Stop ends all ranks and removes the temporary directory.
func (in *Instance) Stop() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, p := range in.ranks {
		if p != nil {
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
		}
	}
	grace, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	for _, p := range in.ranks {
		if p == nil {
			continue
		}
		select {
		case <-p.done:
		case <-grace.Done():
			_ = p.cmd.Process.Kill()
			<-p.done
		}
	}
	_ = in.ports.release()
	_ = os.RemoveAll(in.dir)
}
