// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// hostChanges are the host's settings that Up found and changed, for Down to
// restore.
type hostChanges struct {
	// IPForward is the earlier value of net.ipv4.ip_forward.
	IPForward string `json:"ipForward"`
	// ForwardRules is true if rules were added to let the bridge's traffic pass
	// a FORWARD chain that drops by default, as Docker leaves it.
	ForwardRules bool `json:"forwardRules"`
	// KubeletDir is true if /var/lib/kubelet did not exist.
	KubeletDir bool `json:"kubeletDir"`
}

const (
	ipForwardFile = "/proc/sys/net/ipv4/ip_forward"
	// kubeletDir is written to by every kubelet, whatever its --root-dir: the
	// path of the device plugins' socket is fixed.
	kubeletDir    = "/var/lib/kubelet"
	kubeletSocket = kubeletDir + "/device-plugins/kubelet.sock"
)

// run executes a command and returns its output, which the error also shows.
func run(ctx context.Context, name string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "LC_ALL=C")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}

// requirement is a program of the host that the cluster needs, and the Debian
// package that has it.
type requirement struct {
	files []string // any one of them will do
	deb   string
}

func requirements(o Options) []requirement {
	sbin := func(name string) []string {
		return []string{"/usr/sbin/" + name, "/usr/bin/" + name, "/sbin/" + name, "/usr/local/sbin/" + name}
	}
	return []requirement{
		{sbin("runc"), "runc"},
		{[]string{filepath.Join(o.CNIBinDir, "bridge")}, "containernetworking-plugins"},
		{sbin("ip"), "iproute2"},
		{sbin("iptables"), "iptables"},
		{sbin("modprobe"), "kmod"},
		{sbin("nsenter"), "util-linux"},
	}
}

// missingPackages returns the Debian packages of the requirements that the host
// lacks.
func missingPackages(o Options) []string {
	var missing []string
	for _, r := range requirements(o) {
		found := false
		for _, f := range r.files {
			if _, err := os.Stat(f); err == nil {
				found = true
			}
		}
		if !found {
			missing = append(missing, r.deb)
		}
	}
	return missing
}

// installPackages installs what is missing with apt-get.
func (c *Cluster) installPackages(ctx context.Context) error {
	missing := missingPackages(c.Options)
	if len(missing) == 0 {
		return nil
	}
	list := strings.Join(missing, " ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("the host lacks programs of the Debian packages %s and has no apt-get: install their equivalents (CNI plugins: see --cni-bin-dir)", list)
	}
	c.printf("  installing Debian packages: %s\n", list)
	install := func() error {
		_, err := run(ctx, "apt-get", append([]string{
			"-o", "DPkg::Lock::Timeout=120", "install", "-y", "-q", "--no-install-recommends",
		}, missing...)...)
		return err
	}
	// A first try without update saves a minute where the lists are fresh.
	if install() != nil {
		if _, err := run(ctx, "apt-get", "-o", "DPkg::Lock::Timeout=120", "update", "-q"); err != nil {
			return err
		}
		if err := install(); err != nil {
			return err
		}
	}
	if still := missingPackages(c.Options); len(still) > 0 {
		return fmt.Errorf("%s: installed, but its files are not where they are expected; is --cni-bin-dir right?", strings.Join(still, " "))
	}
	return nil
}

// checkHost finds what would make the cluster fail later in a way that is hard
// to understand. It is called only before a cluster is made.
func (c *Cluster) checkHost(ctx context.Context) error {
	var errs []error
	for _, listen := range []struct {
		flag, address string
	}{
		{"etcd-port", fmt.Sprintf("127.0.0.1:%d", c.Options.EtcdPort)},
		{"etcd-peer-port", fmt.Sprintf("127.0.0.1:%d", c.Options.EtcdPeerPort)},
	} {
		l, err := net.Listen("tcp", listen.address)
		if err != nil {
			errs = append(errs, fmt.Errorf("%w; choose another with --%s", err, listen.flag))
			continue
		}
		l.Close()
	}
	routes, err := run(ctx, "ip", "-j", "-4", "route", "show", "table", "all")
	if err != nil {
		return err
	}
	errs = append(errs, overlappingRoutes(c.Options, []byte(routes)))
	if conn, err := net.Dial("unix", kubeletSocket); err == nil {
		conn.Close()
		if !c.anyOwnKubelet() {
			errs = append(errs, errors.New("a kubelet that is not ours runs on this host, and starting another would disturb its device plugins: use another machine"))
		}
	}
	return errors.Join(errs...)
}

// anyOwnKubelet reports whether a kubelet of any cluster in the same cache runs.
func (c *Cluster) anyOwnKubelet() bool {
	clusters, _ := filepath.Glob(filepath.Join(filepath.Dir(c.Paths.Base), "*", "run"))
	for _, dir := range clusters {
		records, _ := loadRecords(Paths{Base: filepath.Dir(dir)})
		for name, r := range records {
			if strings.HasPrefix(name, "kubelet-") && r.alive() {
				return true
			}
		}
	}
	return false
}

// overlappingRoutes reports routes of the host, in the form of "ip -j route",
// that lie in one of the cluster's networks: traffic to the same address could
// then go either way.
func overlappingRoutes(o Options, data []byte) error {
	var routes []struct {
		Destination string `json:"dst"`
		Device      string `json:"dev"`
	}
	if err := json.Unmarshal(data, &routes); err != nil {
		return fmt.Errorf("read the host's routes: %w", err)
	}
	networks := []struct {
		flag   string
		prefix interface{ String() string }
		has    func(string) bool
	}{
		{"node-cidr", o.NodeCIDR, overlapWith(o.NodeCIDR)},
		{"pod-cidr", o.PodCIDR, overlapWith(o.PodCIDR)},
		{"service-cidr", o.ServiceCIDR, overlapWith(o.ServiceCIDR)},
	}
	var errs []error
	for _, r := range routes {
		if r.Device == o.Bridge() {
			continue
		}
		for _, n := range networks {
			if n.has(r.Destination) {
				errs = append(errs, fmt.Errorf("the host's route to %s by %s lies in %s: choose another network with --%s",
					r.Destination, r.Device, n.prefix, n.flag))
			}
		}
	}
	return errors.Join(errs...)
}

// prepareHost changes the host's settings and records the earlier ones. The
// record is written before the change, so that an interrupted run is undone too.
func (c *Cluster) prepareHost(ctx context.Context) error {
	changes, err := loadHostChanges(c.Paths)
	if err != nil {
		return err
	}
	if changes == nil {
		if changes, err = c.observeHost(ctx); err != nil {
			return err
		}
		if err := writeJSON(c.Paths.host(), changes); err != nil {
			return err
		}
	}
	if err := os.WriteFile(ipForwardFile, []byte("1"), 0o644); err != nil {
		return fmt.Errorf("allow forwarding between nodes: %w", err)
	}
	// Without it, a pod's call of a Service whose endpoint is on the same node
	// gets no answer. Built into some kernels, so a failure may mean nothing.
	if _, err := os.Stat("/proc/sys/net/bridge"); err != nil {
		if _, err := run(ctx, "modprobe", "br_netfilter"); err != nil {
			c.printf("  warning: %v\n", err)
		}
	}
	if changes.ForwardRules {
		return c.forwardRules(ctx, "-I")
	}
	return nil
}

func (c *Cluster) observeHost(ctx context.Context) (*hostChanges, error) {
	value, err := os.ReadFile(ipForwardFile)
	if err != nil {
		return nil, err
	}
	changes := &hostChanges{IPForward: strings.TrimSpace(string(value))}
	if _, err := os.Stat(kubeletDir); errors.Is(err, fs.ErrNotExist) {
		changes.KubeletDir = true
	}
	rules, err := run(ctx, "iptables", "-S", "FORWARD")
	if err != nil {
		return nil, err
	}
	changes.ForwardRules = strings.HasPrefix(rules, "-P FORWARD DROP")
	return changes, nil
}

// forwardRules inserts (-I) or deletes (-D) the rules of [hostChanges].
func (c *Cluster) forwardRules(ctx context.Context, action string) error {
	for _, direction := range []string{"-i", "-o"} {
		rule := []string{"FORWARD", direction, c.Options.Bridge(), "-j", "ACCEPT"}
		_, missing := run(ctx, "iptables", append([]string{"-C"}, rule...)...)
		if (missing == nil) == (action == "-I") {
			continue
		}
		if _, err := run(ctx, "iptables", append([]string{action}, rule...)...); err != nil {
			return err
		}
	}
	return nil
}

// restoreHost undoes prepareHost, except for what another cluster still needs.
func (c *Cluster) restoreHost(ctx context.Context) error {
	changes, err := loadHostChanges(c.Paths)
	if err != nil || changes == nil {
		return err
	}
	var errs []error
	if changes.ForwardRules {
		errs = append(errs, c.forwardRules(ctx, "-D"))
	}
	if c.anyOwnKubelet() {
		return errors.Join(errs...)
	}
	if changes.IPForward == "0" {
		errs = append(errs, os.WriteFile(ipForwardFile, []byte("0"), 0o644))
	}
	if changes.KubeletDir {
		errs = append(errs, os.RemoveAll(filepath.Dir(kubeletSocket)))
		// Fails if something else has put files there, which is as it should be.
		_ = os.Remove(kubeletDir)
	}
	return errors.Join(errs...)
}

func loadHostChanges(p Paths) (*hostChanges, error) {
	data, err := os.ReadFile(p.host())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var changes hostChanges
	if err := json.Unmarshal(data, &changes); err != nil {
		return nil, fmt.Errorf("%s: %w", p.host(), err)
	}
	return &changes, nil
}
