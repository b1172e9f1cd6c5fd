// SPDX-License-Identifier: Apache-2.0

// Package agent is the sidecar: it puts together what one rank needs (device,
// weights, executor, data transport, rendezvous) and, on rank 0, leads the
// instance: it plans each step, sends it to all ranks and gathers the results.
//
// A rank is started with the same configuration file as all others and its own
// number. It joins for ever: whatever happens to other ranks, it keeps its
// weights and takes part in the next epoch.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/findep/findep-operator/runtime/backend"
	// The backends that --backend can name.
	_ "github.com/findep/findep-operator/runtime/backend/native"
	_ "github.com/findep/findep-operator/runtime/backend/reference"
	"github.com/findep/findep-operator/runtime/devices"
	"github.com/findep/findep-operator/runtime/executor"
	"github.com/findep/findep-operator/runtime/identity"
	"github.com/findep/findep-operator/runtime/model"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/rendezvous"
	"github.com/findep/findep-operator/runtime/transport/shm"
	"github.com/findep/findep-operator/runtime/transport/tcp"
)

// maxModelConfigBytes bounds config.json.
const maxModelConfigBytes = 1 << 20

// agent is one rank's process.
type agent struct {
	options Options
	log     *slog.Logger
	now     executor.Clock
	config  *configFile
	shape   *model.Shape
	limits  limits
	metrics *metrics

	gpus   *devices.Monitor
	device backend.Device
	rank   *rank
	data   *tcp.Endpoint
	shared *shm.Meeting // nil where memory is not shared
	member *rendezvous.Member
	leader *leader // nil but on rank 0
	watch  *watchdog
	// joined is set when all of the above are in place, which other goroutines
	// may use from then on.
	joined atomic.Bool
	// control is the leader's gRPC server; nil but on rank 0.
	control *grpc.Server
}

// Run is the whole life of a rank's process. It returns when ctx ends (and the
// leader's accepted requests do not need the rank, see Options.DrainTimeout), or with
// the reason why the rank cannot work at all: bad options, configuration,
// checkpoint or certificate. With ErrWedged it returns while goroutines are
// stuck; the process must end then.
func Run(ctx context.Context, o Options) error {
	if err := o.validate(); err != nil {
		return err
	}
	// One processor for each lane and one for the rest. With fewer, as on a rank
	// that has one core, a lane whose rows have arrived would wait until the Go
	// scheduler takes the processor from the lane that is inside a kernel.
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), executor.Lanes+1))
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil)).With("rank", o.Rank)
	a := &agent{options: o, log: log, now: executor.Monotonic(), watch: &watchdog{now: time.Now, patience: o.StepTimeout}}
	if err := a.configure(); err != nil {
		return err
	}
	ctx, cancel := a.until(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		defer a.close()
		ended <- a.run(ctx)
	}()
	wedged := make(chan error, 1)
	go func() { wedged <- a.watch.watch(ctx, watchInterval) }()
	select {
	case err := <-ended:
		return err
	case err := <-wedged:
		if err != nil {
			log.Error("the process ends, so that another can take its place", "reason", err.Error())
			return err
		}
		return <-ended
	}
}

// watchInterval is how often the watchdog looks.
const watchInterval = 500 * time.Millisecond

// run does everything until ctx ends.
func (a *agent) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	a.watchGPUs(ctx)
	// Probes are answered from the start: loading weights may take minutes, in
	// which the process is alive and not ready.
	g.Go(func() error { return a.serveHTTP(ctx) })
	g.Go(func() error { return a.work(ctx, g) })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// work loads the weights, joins the instance and takes part in it until ctx
// ends.
func (a *agent) work(ctx context.Context, g *errgroup.Group) error {
	for _, prepare := range []func() error{a.load, a.connect, a.lead} {
		if err := prepare(); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return a.join(ctx, g)
}

// configure reads the instance's and the model's configuration.
func (a *agent) configure() error {
	var err error
	if a.config, err = openConfig(a.options.instanceFile(), a.log); err != nil {
		return err
	}
	in := a.config.current.Load()
	if a.options.Rank >= in.WorldSize() {
		return fmt.Errorf("--rank is %d; the instance has ranks 0 to %d", a.options.Rank, in.WorldSize()-1)
	}
	if a.shape, err = readShape(in.Model.Path); err != nil {
		return err
	}
	if in.ExpertRanks > a.shape.MoE.Experts {
		return fmt.Errorf("the instance has %d expert ranks, the model only %d routed experts; use fewer", in.ExpertRanks, a.shape.MoE.Experts)
	}
	a.metrics = newMetrics(a.options.Rank, a.status)
	return nil
}

func readShape(dir string) (*model.Shape, error) {
	path := filepath.Join(dir, "config.json")
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	if info.Size() > maxModelConfigBytes {
		return nil, fmt.Errorf("model: %s has %d bytes; at most %d are read", path, info.Size(), maxModelConfigBytes)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	shape, err := model.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", path, err)
	}
	return shape, nil
}

// tlsConfigs makes the configurations of both sides for the instance's
// certificate; more identities may be let in as clients.
func (a *agent) tlsConfigs(refused func(*identity.RefusedError), clients ...string) (*tcp.TLS, error) {
	source, err := identity.NewDirectory(a.options.TLSDir, func(err error) {
		a.log.Warn("changed certificate is not used", "reason", err.Error())
	})
	if err != nil {
		return nil, err
	}
	own := a.config.current.Load().Identity()
	server, err := identity.ServerTLS(identity.Config{Source: source, Peers: append([]string{own}, clients...), Refused: refused})
	if err != nil {
		return nil, err
	}
	client, err := identity.ClientTLS(identity.Config{Source: source, Peers: []string{own}, Refused: refused})
	if err != nil {
		return nil, err
	}
	return &tcp.TLS{Server: server, Client: client}, nil
}

// connect opens the data listener and prepares this rank's membership.
func (a *agent) connect() error {
	in := a.config.current.Load()
	security, err := a.tlsConfigs(nil)
	if err != nil {
		return err
	}
	protection := security
	if a.options.PlainData {
		a.log.Warn("data between ranks is not protected, as asked for")
		protection = nil
	}
	if err := a.listenData(a.address(in.PortsOf(a.options.Rank).Data), protection); err != nil {
		return err
	}
	host := a.options.AdvertiseHost
	if host == "" {
		host = in.Hosts[a.options.Rank]
	}
	a.member, err = rendezvous.NewMember(rendezvous.MemberConfig{
		Leaders:  []string{net.JoinHostPort(in.Hosts[0], strconv.Itoa(in.PortsOf(0).Control))},
		Identity: in.Identity(), Rank: a.options.Rank, Role: in.RoleOf(a.options.Rank), TopologyHash: a.config.hash,
		Host: in.Hosts[a.options.Rank], DataAddress: net.JoinHostPort(host, strconv.Itoa(in.PortsOf(a.options.Rank).Data)),
		Pod: a.options.PodUID, TLS: security.Client,
		Connect: a.rank.connect(a.data, a.options.Rank), OnStep: a.rank.step, OnAbort: a.rank.abort, Alive: a.watch.check, Device: a.deviceHealth, ProfileMismatch: a.profileMismatch,
		Log: a.rendezvousLog,
	})
	return err
}

// rendezvousLog names other ranks "peer", since "rank" is this one.
func (a *agent) rendezvousLog(message string, kv ...any) {
	named := slices.Clone(kv)
	for i := 0; i < len(named); i += 2 {
		if named[i] == "rank" {
			named[i] = "peer"
		}
	}
	a.log.Info(message, named...)
}

func (a *agent) address(port int) string {
	return net.JoinHostPort(a.options.ListenHost, strconv.Itoa(port))
}

// lead makes rank 0 the leader.
func (a *agent) lead() error {
	if a.options.Rank != 0 {
		return nil
	}
	in := a.config.current.Load()
	l := &leader{config: a.config, limits: a.limits, metrics: a.metrics, log: a.log, machine: fmt.Sprintf("%s, %d threads", a.device.Name(), a.options.Threads), warmUp: a.options.WarmUp, warmUpBudget: a.options.WarmUpBudget, now: a.now,
		planner: newPlanner(a.shape, a.log, a.metrics), deadlines: deadlines{floor: a.options.StepTimeout}}
	coordinator, err := rendezvous.NewCoordinator(rendezvous.Config{
		Instance: in, TopologyHash: a.config.hash,
		HeartbeatInterval: a.options.HeartbeatInterval, HeartbeatTimeout: a.options.HeartbeatTimeout, ConnectTimeout: a.options.ConnectTimeout,
		Observe: l.observationJSON, IDs: idsOf(a.device), Log: a.rendezvousLog,
	})
	if err != nil {
		return err
	}
	security, err := a.tlsConfigs(coordinator.RefusedPeer, identity.OperatorURI)
	if err != nil {
		return errors.Join(err, coordinator.Close())
	}
	l.coordinator = coordinator
	a.control = grpc.NewServer(rendezvous.ServerOptions(security.Server)...)
	coordinator.Register(a.control)
	a.leader = l
	return nil
}

// serveHTTP answers probes, metrics and the debug page.
func (a *agent) serveHTTP(ctx context.Context) error {
	listener, err := net.Listen("tcp", a.address(a.config.current.Load().PortsOf(a.options.Rank).Metrics))
	if err != nil {
		return fmt.Errorf("metrics port: %w", err)
	}
	return serveHTTP(ctx, listener, newHTTPHandler(a.metrics, a.status, a.observation, a.watch.check, a.trace))
}

// join starts what takes part in the instance.
func (a *agent) join(ctx context.Context, g *errgroup.Group) error {
	in := a.config.current.Load()
	if a.leader != nil {
		listener, err := net.Listen("tcp", a.address(in.PortsOf(a.options.Rank).Control))
		if err != nil {
			return fmt.Errorf("control port: %w", err)
		}
		g.Go(func() error { return a.serveControl(ctx, listener) })
		g.Go(func() error { return a.leader.run(ctx) })
	}
	if a.options.Socket != "" {
		g.Go(func() error { return serveEngine(ctx, a.options.Socket, &engineServer{agent: a}) })
	}
	g.Go(func() error { a.config.watch(ctx); return nil })
	a.joined.Store(true)
	a.log.Info("rank started", "role", in.RoleOf(a.options.Rank), "attentionRanks", in.AttentionRanks,
		"expertRanks", in.ExpertRanks, "model", in.Model.Name, "device", a.device.Name(), "topologyHash", a.config.hash)
	return a.member.Run(ctx)
}

func (a *agent) serveControl(ctx context.Context, listener net.Listener) error {
	stop := context.AfterFunc(ctx, a.control.Stop)
	defer stop()
	if err := a.control.Serve(listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("control port: %w", err)
	}
	return nil
}

// status is this rank's view.
func (a *agent) status() rankStatus {
	s := rankStatus{Rank: a.options.Rank, Role: a.config.current.Load().RoleOf(a.options.Rank), Phase: string(rendezvous.Disconnected)}
	if !a.joined.Load() {
		s.Message = a.watch.loading()
		return s
	}
	m := a.member.State()
	s.Phase, s.Epoch, s.Ready, s.Draining = string(m.Phase), m.Epoch, m.Ready, m.Draining
	s.Links = a.rank.linkKinds()
	if err := a.watch.check(); err != nil {
		s.Ready, s.Message = false, err.Error()
		return s
	}
	if a.leader != nil && s.Ready && a.leader.readyEpoch() == 0 {
		s.Ready, s.Message = false, "the leader opens the epoch"
		if !a.leader.planner.measured() {
			s.Message = "the leader measures the stages"
		}
		return s
	}
	if !s.Ready {
		s.Message = m.LastError
		if s.Message == "" {
			s.Message = "waiting for the other ranks"
		}
	}
	return s
}

// observation is what the leader knows; false on other ranks and before it
// leads.
func (a *agent) observation() (plan.Observation, bool) {
	if !a.joined.Load() || a.leader == nil {
		return plan.Observation{}, false
	}
	return a.leader.observation(), true
}

// trace records steps of the instance, on the leader.
func (a *agent) trace(w http.ResponseWriter, q *http.Request) {
	if !a.joined.Load() || a.leader == nil {
		http.Error(w, fmt.Sprintf("rank %d does not lead the instance; ask rank 0", a.options.Rank), http.StatusNotFound)
		return
	}
	serveTrace(w, q, a.leader, a.config.current.Load().RoleOf)
}

// close frees what was made, in reverse order.
func (a *agent) close() {
	if a.leader != nil {
		_ = a.leader.coordinator.Close()
	}
	if a.data != nil {
		_ = a.data.Close()
	}
	if a.shared != nil {
		_ = a.shared.Close()
	}
	if a.rank != nil {
		a.rank.close()
	}
	if a.device != nil {
		_ = a.device.Close()
	}
}
