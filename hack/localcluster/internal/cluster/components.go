// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/findep/findep-operator/hack/localcluster/features"
)

// component is one long-running process.
type component struct {
	// name identifies the process among the cluster's, as in kubelet-node1.
	name string
	// args is the command line; args[0] is absolute or found through PATH.
	args []string
	// health is a URL that answers 200 when the process is ready; empty when
	// readiness is observed otherwise.
	health string
}

func etcdComponent(o Options, p Paths, bin string) component {
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", o.EtcdPort), fmt.Sprintf("http://127.0.0.1:%d", o.EtcdPeerPort)
	return component{name: "etcd", health: client + "/health", args: []string{
		filepath.Join(bin, "etcd"), "--data-dir=" + p.etcd(), "--log-level=warn",
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=default=" + peer,
		// The data is worthless after a power cut, and fsync is most of the
		// time of a write on a slow disk.
		"--unsafe-no-fsync",
	}}
}

func apiserverComponent(o Options, p Paths, bin string) component {
	args := []string{
		filepath.Join(bin, "kube-apiserver"),
		fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", o.EtcdPort),
		fmt.Sprintf("--secure-port=%d", o.APIPort),
		"--bind-address=" + o.Gateway().String(),
		"--advertise-address=" + o.Gateway().String(),
		"--tls-cert-file=" + p.inAuth("apiserver.crt"),
		"--tls-private-key-file=" + p.inAuth("apiserver.key"),
		// These make the ConfigMap from which other servers learn whom to
		// trust; without it, scheduler and controller-manager complain for
		// ever. No certificate with the front proxy's name exists.
		"--client-ca-file=" + p.inAuth("ca.crt"),
		"--requestheader-client-ca-file=" + p.inAuth("ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--kubelet-client-certificate=" + p.inAuth("kubelet-client.crt"),
		"--kubelet-client-key=" + p.inAuth("kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + p.inAuth("sa.pub"),
		"--service-account-signing-key-file=" + p.inAuth("sa.key"),
		"--token-auth-file=" + p.inAuth("tokens.csv"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--service-cluster-ip-range=" + o.ServiceCIDR.String(),
		"--allow-privileged=true",
		// The host has no kube-proxy: webhooks are reached at the pods' own
		// addresses.
		"--enable-aggregator-routing=true",
		"--feature-gates=" + features.Gates,
		"--runtime-config=" + features.RuntimeConfig,
	}
	if o.FastFaults {
		args = append(args, "--default-not-ready-toleration-seconds=2", "--default-unreachable-toleration-seconds=2")
	}
	return component{name: "kube-apiserver", args: args, health: o.Server() + "/readyz"}
}

func controllerManagerComponent(o Options, p Paths, bin string) component {
	args := []string{
		filepath.Join(bin, "kube-controller-manager"),
		"--kubeconfig=" + p.inAuth("kube-controller-manager.kubeconfig"),
		"--authentication-kubeconfig=" + p.inAuth("kube-controller-manager.kubeconfig"),
		"--authorization-kubeconfig=" + p.inAuth("kube-controller-manager.kubeconfig"),
		"--service-account-private-key-file=" + p.inAuth("sa.key"),
		"--root-ca-file=" + p.inAuth("ca.crt"),
		"--use-service-account-credentials",
		"--leader-elect=false",
		"--allocate-node-cidrs=false",
		"--bind-address=" + o.Gateway().String(),
		fmt.Sprintf("--secure-port=%d", o.ControllerPort),
		"--feature-gates=" + features.Gates,
	}
	if o.FastFaults {
		args = append(args,
			"--node-monitor-grace-period=6s", "--node-monitor-period=1s",
			// With few nodes, one lost node is most of a zone, and evictions
			// would slow down or stop.
			"--node-eviction-rate=10", "--secondary-node-eviction-rate=10", "--unhealthy-zone-threshold=1")
	}
	return component{name: "kube-controller-manager", args: args,
		health: fmt.Sprintf("https://%s:%d/healthz", o.Gateway(), o.ControllerPort)}
}

func schedulerComponent(o Options, p Paths, bin string) component {
	return component{name: "kube-scheduler",
		health: fmt.Sprintf("https://%s:%d/healthz", o.Gateway(), o.SchedulerPort),
		args: []string{
			filepath.Join(bin, "kube-scheduler"),
			"--kubeconfig=" + p.inAuth("kube-scheduler.kubeconfig"),
			"--authentication-kubeconfig=" + p.inAuth("kube-scheduler.kubeconfig"),
			"--authorization-kubeconfig=" + p.inAuth("kube-scheduler.kubeconfig"),
			"--leader-elect=false",
			"--bind-address=" + o.Gateway().String(),
			fmt.Sprintf("--secure-port=%d", o.SchedulerPort),
			"--feature-gates=" + features.Gates,
		}}
}

// inNode wraps a command so that it runs in node i's network namespace. nsenter
// and not "ip netns exec", which mounts a new /sys, where no cgroups are;
// nsenter also executes the command in its own place, so the process keeps its
// id.
func inNode(o Options, i int, args ...string) []string {
	return append([]string{"nsenter", "--net=/var/run/netns/" + o.Netns(i)}, args...)
}

func containerdComponent(o Options, p Paths, bin string, i int) component {
	return component{name: "containerd-" + o.NodeName(i),
		args: inNode(o, i, filepath.Join(bin, "containerd"), "-c", filepath.Join(p.node(i), "containerd.toml"))}
}

func kubeletComponent(o Options, p Paths, bin string, i int) component {
	return component{name: "kubelet-" + o.NodeName(i), args: inNode(o, i,
		filepath.Join(bin, "kubelet"),
		"--config="+filepath.Join(p.node(i), "kubelet.yaml"),
		"--kubeconfig="+p.inAuth(o.NodeName(i)+".kubeconfig"),
		"--root-dir="+filepath.Join(p.node(i), "kubelet"),
		"--cert-dir="+filepath.Join(p.node(i), "pki"),
		"--hostname-override="+o.NodeName(i),
		"--node-ip="+o.NodeAddr(i).String(),
		"--node-labels=nvidia.com/gpu.product="+o.Product,
	)}
}

func proxyComponent(o Options, p Paths, bin string, i int) component {
	return component{name: "kube-proxy-" + o.NodeName(i),
		health: fmt.Sprintf("http://%s:10256/healthz", o.NodeAddr(i)),
		args:   inNode(o, i, filepath.Join(bin, "kube-proxy"), "--config="+filepath.Join(p.node(i), "kube-proxy.yaml"))}
}

// components lists all processes of a cluster in the order of starting.
func components(o Options, p Paths, bin string) []component {
	all := []component{
		etcdComponent(o, p, bin), apiserverComponent(o, p, bin),
		controllerManagerComponent(o, p, bin), schedulerComponent(o, p, bin),
	}
	for _, i := range o.nodeNumbers() {
		all = append(all, containerdComponent(o, p, bin, i), kubeletComponent(o, p, bin, i), proxyComponent(o, p, bin, i))
	}
	return all
}

// environment is that of every process. The caller's is not passed on: a proxy
// setting in it would send requests between components out of the machine.
func environment(bin string) []string {
	path := []string{bin, "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
	return []string{"PATH=" + strings.Join(path, ":"), "HOME=/root"}
}
