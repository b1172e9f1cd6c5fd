// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// afd is the plugin's part of --additional-config.
type afd struct {
	Role           string `json:"role"`
	Connector      string `json:"connector"`
	Host           string `json:"host"`
	Port           int    `json:"port"`
	AttentionRanks int    `json:"num_attention_ranks"`
	FFNRanks       int    `json:"num_ffn_ranks"`
	Gate           *bool  `json:"compute_gate_on_attention"`
}

// config is what one rank was started with.
type config struct {
	model, served string
	port          int
	headless      bool
	roleRank      int
	address       string
	rpcPort       int
	afd           afd
	// subgroupPorts says that every ffn rank has a port of its own, as with plugins
	// before 0.30.
	subgroupPorts bool
	// agreed is what all ranks must have in common.
	agreed string
}

func (c *config) worldSize() int { return c.afd.AttentionRanks + c.afd.FFNRanks }

// worldRank counts the ffn ranks first.
func (c *config) worldRank() int {
	if c.afd.Role == "ffn" {
		return c.roleRank
	}
	return c.afd.FFNRanks + c.roleRank
}

// roleSize is the number of ranks of this rank's role.
func (c *config) roleSize() int {
	if c.afd.Role == "ffn" {
		return c.afd.FFNRanks
	}
	return c.afd.AttentionRanks
}

// flags are the arguments of vllm serve that the stand-in knows.
type flags struct {
	c                         config
	additional, plugin, dtype string
	tp, dp, local, modelLen   int
	dbo, ep, eager            bool
	ubatches, decode, prefill int
}

func (f *flags) set() *flag.FlagSet {
	s := flag.NewFlagSet("vllm serve", flag.ContinueOnError)
	s.SetOutput(io.Discard)
	s.StringVar(&f.c.served, "served-model-name", "", "")
	s.IntVar(&f.c.port, "port", 8000, "")
	s.BoolVar(&f.c.headless, "headless", false, "")
	s.IntVar(&f.tp, "tensor-parallel-size", 1, "")
	s.IntVar(&f.dp, "data-parallel-size", 1, "")
	s.IntVar(&f.local, "data-parallel-size-local", 0, "")
	s.IntVar(&f.c.roleRank, "data-parallel-start-rank", 0, "")
	s.StringVar(&f.c.address, "data-parallel-address", "", "")
	s.IntVar(&f.c.rpcPort, "data-parallel-rpc-port", 0, "")
	s.BoolVar(&f.ep, "enable-expert-parallel", false, "")
	s.IntVar(&f.modelLen, "max-model-len", 1, "")
	s.StringVar(&f.dtype, "dtype", "auto", "")
	s.BoolVar(&f.dbo, "enable-dbo", false, "")
	s.IntVar(&f.ubatches, "ubatch-size", 2, "")
	s.IntVar(&f.decode, "dbo-decode-token-threshold", 32, "")
	s.IntVar(&f.prefill, "dbo-prefill-token-threshold", 512, "")
	s.StringVar(&f.additional, "additional-config", "", "")
	s.BoolVar(&f.eager, "enforce-eager", false, "")
	// The stand-in's own: the version of the plugin to behave like.
	s.StringVar(&f.plugin, "standin-plugin", "0.30", "")
	return s
}

// parse reads the command line of one rank as strictly as the original does, and
// more strictly where the original would wait for ever.
func parse(args []string) (*config, error) {
	if len(args) < 2 || args[0] != "serve" || strings.HasPrefix(args[1], "-") {
		return nil, errors.New("usage: vllm serve MODEL [arguments]")
	}
	f := flags{}
	f.c.model = args[1]
	if err := f.set().Parse(args[2:]); err != nil {
		return nil, err
	}
	if err := f.readAFD(); err != nil {
		return nil, fmt.Errorf("--additional-config: %w", err)
	}
	c := &f.c
	c.subgroupPorts = f.plugin == "0.26"
	for _, check := range []func() error{f.checkTopology, f.checkParallel, f.checkOverlap} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	c.agreed = fmt.Sprint(c.afd.Connector, c.afd.Host, c.afd.Port, c.afd.AttentionRanks, c.afd.FFNRanks, *c.afd.Gate, f.plugin,
		c.served, f.modelLen, f.dtype, f.dbo, f.decode, f.prefill, f.eager)
	return c, nil
}

// readAFD knows every field and lets no other in.
func (f *flags) readAFD() error {
	var additional struct {
		AFD *afd `json:"afd"`
	}
	d := json.NewDecoder(strings.NewReader(f.additional))
	d.DisallowUnknownFields()
	if err := d.Decode(&additional); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the object")
	}
	if additional.AFD == nil {
		return errors.New("afd is missing")
	}
	a := *additional.AFD
	switch {
	case a.Role != "attention" && a.Role != "ffn":
		return fmt.Errorf("role is %q; it must be attention or ffn", a.Role)
	case a.Connector != "P2pNcclAFDConnector":
		return fmt.Errorf("connector is %q", a.Connector)
	case a.Host == "":
		return errors.New("host is empty")
	case a.Port < 1 || a.Port > 65535:
		return fmt.Errorf("port is %d", a.Port)
	case a.AttentionRanks < 1 || a.FFNRanks < 1:
		return fmt.Errorf("%d attention and %d ffn ranks", a.AttentionRanks, a.FFNRanks)
	case a.Gate == nil:
		return errors.New("compute_gate_on_attention is missing")
	}
	f.c.afd = a
	return nil
}

func (f *flags) checkTopology() error {
	a := f.c.afd
	if a.AttentionRanks < a.FFNRanks {
		return fmt.Errorf("num_attention_ranks >= num_ffn_ranks is required, got %d < %d", a.AttentionRanks, a.FFNRanks)
	}
	if f.c.subgroupPorts && a.AttentionRanks%a.FFNRanks != 0 {
		return fmt.Errorf("num_attention_ranks must be a multiple of num_ffn_ranks, got %d and %d", a.AttentionRanks, a.FFNRanks)
	}
	return nil
}

func (f *flags) checkParallel() error {
	c := &f.c
	switch size := c.roleSize(); {
	case f.tp != 1 || !f.ep:
		return errors.New("one GPU per rank and expert parallelism are expected")
	case f.dp != size:
		return fmt.Errorf("--data-parallel-size is %d, but the role %s has %d ranks", f.dp, c.afd.Role, size)
	case c.roleRank < 0 || c.roleRank >= size:
		return fmt.Errorf("--data-parallel-start-rank %d of %d", c.roleRank, size)
	case c.headless != (c.roleRank > 0):
		return fmt.Errorf("rank %d: --headless is for all ranks of a role but the first", c.roleRank)
	case size > 1 && (f.local != 1 || c.address == "" || c.rpcPort == 0):
		return errors.New("several ranks need --data-parallel-size-local=1, --data-parallel-address and --data-parallel-rpc-port")
	case c.served == "":
		return errors.New("--served-model-name is missing")
	}
	return nil
}

func (f *flags) checkOverlap() error {
	if f.dbo && f.ubatches != 2 {
		return fmt.Errorf("--ubatch-size is %d; exactly two ubatches are supported", f.ubatches)
	}
	return nil
}
