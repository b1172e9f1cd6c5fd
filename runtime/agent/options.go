// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/rendezvous"
)

// Options are what a rank's process is started with.
type Options struct {
	// ConfigDir holds instance.json; the file is read again when it changes.
	ConfigDir string
	// TLSDir holds ca.crt, tls.crt and tls.key.
	TLSDir string
	// Socket is the path of the Unix socket that serves the Engine API; empty means
	// that nobody uses it, as on ranks other than the leader's.
	Socket string
	// Rank is this process's number.
	Rank int
	// ListenHost is the address to listen on; empty means all.
	ListenHost string
	// AdvertiseHost is where other ranks reach this one; empty means the entry
	// of the instance's Hosts.
	AdvertiseHost string
	// PodUID identifies the pod, so that a restarted container may take its own
	// rank back at once; empty outside of Kubernetes.
	PodUID string
	// Backend names the kernels to use: cpu, reference, cuda, auto. The default is
	// what the environment variable FINDEP_BACKEND names, as in the image with the
	// CUDA backend, else cpu.
	Backend string
	// Threads bounds the host threads of the CPU backend; 0 means one.
	Threads int
	// WeightType is the type that matrices are kept in, F32 or BF16, whatever
	// the checkpoint's. BF16 takes half the memory, and half the time where a
	// step takes as long as reading them; of a BF16 checkpoint it loses nothing.
	WeightType string
	// HeartbeatInterval and HeartbeatTimeout bound how late a lost rank is
	// noticed.
	HeartbeatInterval time.Duration
	HeartbeatTimeout  time.Duration
	// ConnectTimeout bounds the making of an epoch's data links.
	ConnectTimeout time.Duration
	// StepTimeout is the least time that a step may take before its epoch is
	// given up; ten times the predicted makespan is added. A rank that does not
	// let go of its work for as long after that is wedged, and its process ends.
	StepTimeout time.Duration
	// DrainTimeout is how long a rank other than the leader's may go on after it was
	// told to stop, while the leader's server ends the requests that it has accepted;
	// 0 ends it at once.
	DrainTimeout time.Duration
	// LoadTimeout bounds the time in which loading the weights makes no
	// progress.
	LoadTimeout time.Duration
	// PlainData exchanges token rows without TLS; all ranks must agree. The
	// control channel stays protected.
	PlainData bool
	// SharedMemory is auto or off: whether ranks of one machine exchange token
	// rows through memory where they can.
	SharedMemory string
	// SharedDirectory is where ranks of one machine find each other to share
	// memory; empty means that they must be in one network namespace.
	SharedDirectory string
	// DataDelay makes received token rows wait, as on a longer path; for
	// experiments.
	DataDelay time.Duration
	// WarmUp measures this machine's stages when the instance has formed, so
	// that predictions rest on measurements.
	WarmUp bool
	// WarmUpBudget bounds the time for measuring larger and larger prompts; the
	// small ones are always measured.
	WarmUpBudget time.Duration
}

// BackendVariable is the environment variable with the default of --backend.
const BackendVariable = "FINDEP_BACKEND"

// maxWarmUpBudget bounds Options.WarmUpBudget: an instance is not ready before
// it has measured itself.
const maxWarmUpBudget = 10 * time.Minute

// AddFlags declares one flag per option.
func (o *Options) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.ConfigDir, "config-dir", "/etc/findep/instance", "directory with "+plan.InstanceFile)
	f.StringVar(&o.TLSDir, "tls-dir", "/etc/findep/tls", "directory with ca.crt, tls.crt and tls.key")
	f.StringVar(&o.Socket, "socket", "/run/findep/engine.sock", "Unix socket of the Engine API; empty for none")
	f.IntVar(&o.Rank, "rank", 0, "this process's rank")
	f.StringVar(&o.ListenHost, "listen-host", "", "address to listen on (default all)")
	f.StringVar(&o.AdvertiseHost, "advertise-host", "", "address other ranks reach this one at (default: the instance's host of this rank)")
	f.StringVar(&o.PodUID, "pod-uid", "", "this pod's UID")
	f.StringVar(&o.Backend, "backend", cmp.Or(os.Getenv(BackendVariable), "cpu"), "kernels to use: cpu, cuda, auto (cuda, or cpu where there is no GPU) or reference; default from "+BackendVariable)
	f.IntVar(&o.Threads, "threads", 1, "host threads of the CPU backend")
	f.StringVar(&o.WeightType, "weight-type", backend.F32.String(), "type that matrices are kept in: F32, or BF16, which takes half the memory and loses nothing of a BF16 checkpoint")
	f.DurationVar(&o.HeartbeatInterval, "heartbeat-interval", rendezvous.DefaultHeartbeatInterval, "time between heartbeats")
	f.DurationVar(&o.HeartbeatTimeout, "heartbeat-timeout", rendezvous.DefaultHeartbeatTimeout, "silence after which a rank counts as lost")
	f.DurationVar(&o.ConnectTimeout, "connect-timeout", rendezvous.DefaultConnectTimeout, "how long the data links of an epoch may take to be made")
	f.DurationVar(&o.StepTimeout, "step-timeout", 5*time.Second, "least time a step may take before a rank counts as wedged; ten times the predicted time is added")
	f.DurationVar(&o.DrainTimeout, "drain-timeout", 0, "how long a rank other than 0 may go on after SIGTERM while the leader's server ends its accepted requests (default: it ends at once)")
	f.DurationVar(&o.LoadTimeout, "load-timeout", 5*time.Minute, "time without progress after which loading the weights counts as wedged")
	f.BoolVar(&o.PlainData, "plain-data", false, "exchange token rows without TLS, for trusted links only; all ranks must agree")
	f.StringVar(&o.SharedMemory, "shared-memory", sharedAuto, "auto exchanges token rows with ranks of this machine through memory where possible; off never does")
	f.StringVar(&o.SharedDirectory, "shared-directory", os.Getenv(sharedDirectoryVariable),
		"directory that ranks of one machine and one user share, to find each other across network namespaces (default $"+sharedDirectoryVariable+"; empty: within this network namespace only)")
	f.DurationVar(&o.DataDelay, "data-delay", 0, "let received token rows wait as on a longer path, for experiments")
	f.BoolVar(&o.WarmUp, "warm-up", true, "measure the stages when the instance has formed")
	f.DurationVar(&o.WarmUpBudget, "warm-up-budget", 2*time.Second, "time for measuring larger and larger prompts")
}

func (o *Options) validate() error {
	if o.Rank < 0 || o.Rank >= plan.MaxRanks {
		return fmt.Errorf("--rank is %d; it must lie between 0 and %d", o.Rank, plan.MaxRanks-1)
	}
	if o.Threads < 0 || o.Threads > 1024 {
		return fmt.Errorf("--threads is %d; it must lie between 0 and 1024", o.Threads)
	}
	if _, err := o.weightType(); err != nil {
		return err
	}
	if o.HeartbeatInterval <= 0 || o.HeartbeatTimeout < 2*o.HeartbeatInterval {
		return fmt.Errorf("--heartbeat-timeout is %v; it must be at least twice --heartbeat-interval (%v)",
			o.HeartbeatTimeout, o.HeartbeatInterval)
	}
	if err := cmp.Or(o.validateTimeouts(), o.validateShared()); err != nil {
		return err
	}
	if o.WarmUpBudget < 0 || o.WarmUpBudget > maxWarmUpBudget {
		return fmt.Errorf("--warm-up-budget is %v; it must lie between 0 and %v", o.WarmUpBudget, maxWarmUpBudget)
	}
	if len(o.Socket) > 100 {
		return fmt.Errorf("--socket %q has %d characters; Unix socket paths hold at most 100", o.Socket, len(o.Socket))
	}
	return nil
}

func (o *Options) validateTimeouts() error {
	if o.ConnectTimeout <= 0 || o.StepTimeout <= 0 || o.LoadTimeout <= 0 {
		return fmt.Errorf("--connect-timeout is %v, --step-timeout %v and --load-timeout %v; all must be positive",
			o.ConnectTimeout, o.StepTimeout, o.LoadTimeout)
	}
	if o.DrainTimeout < 0 {
		return fmt.Errorf("--drain-timeout is %v; it must not be negative", o.DrainTimeout)
	}
	return nil
}

// weightType reads WeightType; empty means F32.
func (o *Options) weightType() (backend.DType, error) {
	switch o.WeightType {
	case "", backend.F32.String():
		return backend.F32, nil
	case backend.BF16.String():
		return backend.BF16, nil
	}
	return 0, fmt.Errorf("--weight-type is %q; use F32 or BF16", o.WeightType)
}

func (o *Options) instanceFile() string { return filepath.Join(o.ConfigDir, plan.InstanceFile) }
