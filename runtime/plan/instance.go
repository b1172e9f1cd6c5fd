// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// Role is the group a rank belongs to.
type Role string

// The two groups of disaggregated expert parallelism.
const (
	// Attention ranks hold attention, shared experts, router and KV cache.
	Attention Role = "Attention"
	// Expert ranks hold the routed experts.
	Expert Role = "Expert"
)

// Ports every rank listens on. They are per pod, so they never clash.
const (
	// MetricsPort serves /metrics, /readyz, /healthz and /debug/plan.
	MetricsPort = 9400
	// ControlPort serves rendezvous and observation over mutual TLS.
	ControlPort = 9401
	// DataPort serves A2E and E2A over mutual TLS.
	DataPort = 9402
	// ServingPort serves the OpenAI-compatible API in the leader's pod.
	ServingPort = 8000
)

// MaxRanks bounds the world size of one instance.
const MaxRanks = 4096

// InstanceFile is the key in the instance's Secret and the file name below
// the configuration directory of each container.
const InstanceFile = "instance.json"

// Instance is what one DEP instance (an attention group and its expert group)
// needs to know to form. The operator renders it into a Secret; sidecar and
// server read it from the mounted file. A rank's own number is not part of it,
// so every pod of an instance mounts the same bytes.
type Instance struct {
	// Namespace and Deployment name the MoEDeployment; Index is the replica.
	Namespace  string `json:"namespace"`
	Deployment string `json:"deployment"`
	Index      int    `json:"index"`
	// Revision identifies the user's intent that these pods were made from.
	Revision string `json:"revision"`
	// AttentionRanks and ExpertRanks are the group sizes ag and eg. Ranks
	// 0..ag-1 are attention ranks, ag..ag+eg-1 expert ranks.
	AttentionRanks int `json:"attentionRanks"`
	ExpertRanks    int `json:"expertRanks"`
	// Hosts holds the DNS name or address of each rank, by rank.
	Hosts []string `json:"hosts"`
	// Ports overrides the default ports, by rank; used when ranks share one
	// network namespace. Empty means the defaults for every rank.
	Ports []RankPorts `json:"ports,omitempty"`
	// Model is the served model.
	Model ModelRef `json:"model"`
	// Schedule is how plans are chosen; it may change while the pods run.
	Schedule Schedule `json:"schedule"`
	// SLO holds the user's objectives; zero means none.
	SLO SLO `json:"slo"`
	// Start is the operator's plan, used until the leader has solved its own.
	Start Plan `json:"start"`
	// Profile holds the GPU profiles' JSON (runtime/profile) by role name, so
	// that leader and operator predict from the same numbers.
	Profile map[Role]json.RawMessage `json:"profile,omitempty"`
}

// RankPorts are the listening ports of one rank.
type RankPorts struct {
	Control int `json:"control"`
	Data    int `json:"data"`
	Metrics int `json:"metrics"`
}

// ModelRef names the model and where its files are in the container.
type ModelRef struct {
	// Name is the public name, also the id in /v1/models.
	Name string `json:"name"`
	// Path is the directory with config.json, weights and tokenizer.
	Path string `json:"path"`
	// MaxContextTokens bounds prompt plus completion of one sequence.
	MaxContextTokens int `json:"maxContextTokens"`
	// KVCacheTokens is the KV capacity of one attention rank in tokens;
	// 0 lets the rank choose from its free memory.
	KVCacheTokens int `json:"kvCacheTokens,omitempty"`
}

// Schedule is the user's wish for how plans are chosen.
type Schedule struct {
	Policy Policy `json:"policy"`
	// Order is ASAS, AASS or Auto.
	Order Order `json:"order"`
	// Chunks is Auto or Off.
	Chunks string `json:"chunks"`
	// Resolve is Online (re-solve when the workload changes) or AtStart.
	Resolve string `json:"resolve"`
	// MaxSegments bounds r2; 0 means the solver's default.
	MaxSegments int `json:"maxSegments,omitempty"`
	// Fixed, when set, is used as it is wherever the batch allows it. It is
	// for experiments and tests.
	Fixed *Plan `json:"fixed,omitempty"`
}

// SLO holds latency objectives in milliseconds; zero means none.
type SLO struct {
	TimeToFirstTokenMilliseconds   int `json:"timeToFirstTokenMilliseconds,omitempty"`
	TimePerOutputTokenMilliseconds int `json:"timePerOutputTokenMilliseconds,omitempty"`
}

// WorldSize is the number of ranks, ag + eg.
func (in *Instance) WorldSize() int { return in.AttentionRanks + in.ExpertRanks }

// RoleOf returns the group of a rank.
func (in *Instance) RoleOf(rank int) Role {
	if rank < in.AttentionRanks {
		return Attention
	}
	return Expert
}

// PortsOf returns the listening ports of a rank.
func (in *Instance) PortsOf(rank int) RankPorts {
	if rank < len(in.Ports) {
		return in.Ports[rank]
	}
	return RankPorts{Control: ControlPort, Data: DataPort, Metrics: MetricsPort}
}

// Topology returns a copy without what may change while the pods run. Ranks of
// one epoch must agree on its hash.
func (in *Instance) Topology() Instance {
	t := *in
	t.Schedule, t.SLO, t.Start, t.Profile = Schedule{}, SLO{}, Plan{}, nil
	return t
}

// ScheduleHash identifies what may change while the pods run: the schedule, the
// objectives and the operator's plan. The leader reports the one in use.
func (in *Instance) ScheduleHash() (string, error) {
	return Hash(struct {
		Schedule Schedule
		SLO      SLO
		Start    Plan
	}{in.Schedule, in.SLO, in.Start})
}

// Identity is the URI that an instance's certificates carry as subject
// alternative name, and that each peer checks.
func (in *Instance) Identity() string {
	return fmt.Sprintf("findep://%s/%s/%d", in.Namespace, in.Deployment, in.Index)
}

// DecodeInstance parses and validates the configuration file. Unknown fields
// are refused: they mean that operator and sidecar are of different versions.
func DecodeInstance(b []byte) (*Instance, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var in Instance
	if err := dec.Decode(&in); err != nil {
		return nil, fmt.Errorf("instance configuration: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("instance configuration: data after the object")
	}
	if err := in.Validate(); err != nil {
		return nil, err
	}
	return &in, nil
}

// Validate reports the first inconsistency.
func (in *Instance) Validate() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("instance configuration: "+format, args...)
	}
	if in.AttentionRanks < 1 || in.ExpertRanks < 1 || in.WorldSize() > MaxRanks {
		return fail("attentionRanks is %d and expertRanks %d; each must be at least 1 and the sum at most %d",
			in.AttentionRanks, in.ExpertRanks, MaxRanks)
	}
	if len(in.Hosts) != in.WorldSize() {
		return fail("hosts has %d entries for a world size of %d", len(in.Hosts), in.WorldSize())
	}
	if len(in.Ports) != 0 && len(in.Ports) != in.WorldSize() {
		return fail("ports has %d entries for a world size of %d; give all or none", len(in.Ports), in.WorldSize())
	}
	if in.Model.Path == "" || in.Model.Name == "" {
		return fail("model.name is %q and model.path %q; both are required", in.Model.Name, in.Model.Path)
	}
	if in.Model.MaxContextTokens < 1 {
		return fail("model.maxContextTokens is %d; it must be at least 1", in.Model.MaxContextTokens)
	}
	return in.Schedule.validate(fail)
}

func (s Schedule) validate(fail func(string, ...any) error) error {
	switch s.Policy {
	case FinDEP, PPPipe, Sequential:
	default:
		return fail("schedule.policy %q is unknown; use FinDEP, PPPipe or Sequential", s.Policy)
	}
	switch s.Order {
	case ASAS, AASS, OrderAuto:
	default:
		return fail("schedule.order %q is unknown; use Auto, ASAS or AASS", s.Order)
	}
	if s.Chunks != "Auto" && s.Chunks != "Off" {
		return fail("schedule.chunks %q is unknown; use Auto or Off", s.Chunks)
	}
	if s.Resolve != "Online" && s.Resolve != "AtStart" {
		return fail("schedule.resolve %q is unknown; use Online or AtStart", s.Resolve)
	}
	if s.MaxSegments < 0 || s.MaxSegments > MaxR2 {
		return fail("schedule.maxSegments is %d; it must lie between 0 and %d", s.MaxSegments, MaxR2)
	}
	if s.Fixed != nil {
		return s.Fixed.Validate()
	}
	return nil
}
