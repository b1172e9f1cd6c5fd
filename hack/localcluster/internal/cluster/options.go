// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
)

// Options are the choices that a cluster is made with. They are stored beside
// its state and cannot change while it exists.
type Options struct {
	// Name tells several clusters of one machine apart; also the kubeconfig
	// context.
	Name string `json:"name"`
	// Nodes is the number of nodes, each with a kubelet and containerd of its
	// own.
	Nodes int `json:"nodes"`
	// GPUs is the amount of nvidia.com/gpu that each node advertises. No GPU
	// stands behind it.
	GPUs int `json:"gpus"`
	// Product is the nvidia.com/gpu.product label of every node.
	Product string `json:"product"`
	// FastFaults makes the cluster notice and replace lost nodes within about
	// 10 s, instead of the 6 minutes of the Kubernetes defaults.
	FastFaults bool `json:"fastFaults"`
	// NodeCIDR holds the bridge (first address) and node i (address 10+i).
	NodeCIDR netip.Prefix `json:"nodeCIDR"`
	// PodCIDR is split in /24 networks; node i has the i-th.
	PodCIDR netip.Prefix `json:"podCIDR"`
	// ServiceCIDR holds the cluster IPs; the API server is at its first
	// address, DNS at its tenth.
	ServiceCIDR netip.Prefix `json:"serviceCIDR"`
	// APIPort is kube-apiserver's port on the bridge's address.
	APIPort int `json:"apiPort"`
	// ControllerPort and SchedulerPort are the health and metrics ports of the
	// two, on the bridge's address.
	ControllerPort int `json:"controllerPort"`
	SchedulerPort  int `json:"schedulerPort"`
	// EtcdPort and EtcdPeerPort are etcd's ports on 127.0.0.1.
	EtcdPort     int `json:"etcdPort"`
	EtcdPeerPort int `json:"etcdPeerPort"`
	// CNIBinDir is where the CNI plugins bridge, host-local and portmap are.
	CNIBinDir string `json:"cniBinDir"`
}

// Defaults returns the options of a cluster made without flags.
func Defaults() Options {
	return Options{
		Name: "findep", Nodes: 2, GPUs: 8, Product: "Simulated-CPU",
		NodeCIDR:    netip.MustParsePrefix("172.30.0.0/24"),
		PodCIDR:     netip.MustParsePrefix("10.244.0.0/16"),
		ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"),
		APIPort:     6443, ControllerPort: 10257, SchedulerPort: 10259,
		EtcdPort: 23790, EtcdPeerPort: 23800,
		CNIBinDir: "/usr/lib/cni",
	}
}

// MaxNodes keeps a mistyped --nodes from exhausting the machine: every node
// costs about 150 MiB.
const MaxNodes = 16

// maxGPUs bounds what a node advertises.
const maxGPUs = 1024

// namePattern has no underscore because the kubelet panics on one in a cgroup
// name, and is short because socket paths contain it.
var namePattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,14}[a-z0-9]$`)

// Validate checks everything that can be checked without looking at the
// machine.
func (o Options) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(namePattern.MatchString(o.Name),
		"name %q: use 2 to 16 lower-case letters, digits and dashes, beginning with a letter", o.Name)
	check(o.Nodes >= 1 && o.Nodes <= MaxNodes, "nodes %d: use 1 to %d", o.Nodes, MaxNodes)
	check(o.GPUs >= 0 && o.GPUs <= maxGPUs, "gpus %d: use 0 to %d", o.GPUs, maxGPUs)
	check(labelPattern.MatchString(o.Product),
		"product %q: use at most 63 letters, digits, dots, dashes and underscores", o.Product)
	errs = append(errs, o.validateNetworks())
	ports := map[int]bool{}
	for _, p := range []int{o.APIPort, o.ControllerPort, o.SchedulerPort, o.EtcdPort, o.EtcdPeerPort} {
		check(p > 0 && p < 1<<16, "port %d: use 1 to 65535", p)
		check(!ports[p], "port %d is given twice: every server needs its own", p)
		ports[p] = true
	}
	return errors.Join(errs...)
}

var labelPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)

func (o Options) validateNetworks() error {
	networks := []struct {
		name   string
		prefix netip.Prefix
		bits   int
	}{
		{"node CIDR", o.NodeCIDR, 24},
		{"pod CIDR", o.PodCIDR, 16},
		{"service CIDR", o.ServiceCIDR, 24},
	}
	for i, n := range networks {
		if !n.prefix.IsValid() || !n.prefix.Addr().Is4() {
			return fmt.Errorf("%s %s: use an IPv4 network", n.name, n.prefix)
		}
		if n.prefix != n.prefix.Masked() {
			return fmt.Errorf("%s %s: it has host bits set; write %s", n.name, n.prefix, n.prefix.Masked())
		}
		if n.prefix.Bits() > n.bits || n.prefix.Bits() < 8 {
			return fmt.Errorf("%s %s: use a /8 to /%d", n.name, n.prefix, n.bits)
		}
		for _, other := range networks[:i] {
			if n.prefix.Overlaps(other.prefix) {
				return fmt.Errorf("%s %s overlaps %s %s", n.name, n.prefix, other.name, other.prefix)
			}
		}
	}
	return nil
}

// plus returns the address n after a.
func plus(a netip.Addr, n uint32) netip.Addr {
	b := a.As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += n
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// Gateway is the bridge's address, at which the control plane listens.
func (o Options) Gateway() netip.Addr { return plus(o.NodeCIDR.Addr(), 1) }

// NodeAddr is the address of node i, counted from 1.
func (o Options) NodeAddr(i int) netip.Addr { return plus(o.NodeCIDR.Addr(), uint32(10+i)) }

// PodSubnet is the network of the pods on node i.
func (o Options) PodSubnet(i int) netip.Prefix {
	return netip.PrefixFrom(plus(o.PodCIDR.Addr(), uint32(i)<<8), 24)
}

// KubernetesAddr is the cluster IP of the API server.
func (o Options) KubernetesAddr() netip.Addr { return plus(o.ServiceCIDR.Addr(), 1) }

// DNSAddr is the cluster IP of CoreDNS.
func (o Options) DNSAddr() netip.Addr { return plus(o.ServiceCIDR.Addr(), 10) }

// Server is the API server's URL.
func (o Options) Server() string { return fmt.Sprintf("https://%s:%d", o.Gateway(), o.APIPort) }

// NodeName is the name of node i in Kubernetes.
func (o Options) NodeName(i int) string { return fmt.Sprintf("node%d", i) }

// Rack is the value of node i's topology.kubernetes.io/rack label.
func (o Options) Rack(i int) string { return fmt.Sprintf("r%d", i) }

// Netns is the network namespace of node i.
func (o Options) Netns(i int) string { return fmt.Sprintf("%s-node%d", o.Name, i) }

// Cgroup is the folder, in every cgroup hierarchy, that holds all nodes.
func (o Options) Cgroup() string { return "findep-" + o.Name }

// linkPrefix begins the names of the cluster's host interfaces. An interface
// name has at most 15 characters, so it holds a hash of the cluster's name.
func (o Options) linkPrefix() string {
	sum := sha256.Sum256([]byte(o.Name))
	return fmt.Sprintf("lc%x", sum[:3])
}

// Bridge is the host interface that joins the nodes.
func (o Options) Bridge() string { return o.linkPrefix() + "br" }

// Veth is the host end of node i's uplink.
func (o Options) Veth(i int) string { return fmt.Sprintf("%sn%d", o.linkPrefix(), i) }

// nodeNumbers returns 1 to Nodes.
func (o Options) nodeNumbers() []int {
	out := make([]int, o.Nodes)
	for i := range out {
		out[i] = i + 1
	}
	return out
}
