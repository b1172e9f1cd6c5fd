// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"net/netip"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Options)
		want   string // part of the error; empty if the options are valid
	}{
		{"defaults", func(*Options) {}, ""},
		{"longest name", func(o *Options) { o.Name = "a234567890123456" }, ""},
		{"name too long for a socket path", func(o *Options) { o.Name = "a2345678901234567" }, "name"},
		{"underscore, on which the kubelet panics", func(o *Options) { o.Name = "a_b" }, "name"},
		{"path in the name", func(o *Options) { o.Name = "../x" }, "name"},
		{"no nodes", func(o *Options) { o.Nodes = 0 }, "nodes 0"},
		{"too many nodes", func(o *Options) { o.Nodes = MaxNodes + 1 }, "nodes 17"},
		{"negative GPUs", func(o *Options) { o.GPUs = -1 }, "gpus -1"},
		{"product that is no label", func(o *Options) { o.Product = "H100 SXM" }, "product"},
		{"host bits", func(o *Options) { o.PodCIDR = netip.MustParsePrefix("10.244.1.0/16") }, "write 10.244.0.0/16"},
		{"IPv6", func(o *Options) { o.PodCIDR = netip.MustParsePrefix("fd00::/64") }, "IPv4"},
		{"too few pod networks", func(o *Options) { o.PodCIDR = netip.MustParsePrefix("10.244.0.0/20") }, "/16"},
		{"overlap", func(o *Options) { o.ServiceCIDR = netip.MustParsePrefix("10.244.0.0/16") }, "overlaps pod CIDR"},
		{"same port twice", func(o *Options) { o.EtcdPort = o.APIPort }, "6443 is given twice"},
		{"port out of range", func(o *Options) { o.APIPort = 70000 }, "port 70000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := Defaults()
			tt.change(&o)
			err := o.Validate()
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("Validate() = %v, want no error", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("Validate() = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestLimitsOfTheKernelHoldForEveryValidName(t *testing.T) {
	o := Defaults()
	o.Name, o.Nodes = "a234567890123456", MaxNodes
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	// IFNAMSIZ is 16 with the terminating zero; containerd takes at most 42
	// bytes for the folder of the shims' sockets.
	for _, link := range []string{o.Bridge(), o.Veth(MaxNodes)} {
		if len(link) > 15 {
			t.Errorf("interface name %s has %d bytes, want at most 15", link, len(link))
		}
	}
	p := NewPaths("/a/long/cache/folder", o.Name)
	if dir := p.shimSockets(MaxNodes); len(dir) > 42 {
		t.Errorf("shim socket folder %s has %d bytes, want at most 42", dir, len(dir))
	}
}

func TestOverlappingRoutes(t *testing.T) {
	tests := []struct {
		name, routes, want string
	}{
		{"default route", `[{"dst":"default","dev":"eth0"},{"dst":"0.0.0.0/0","dev":"eth0"}]`, ""},
		{"unrelated", `[{"dst":"172.17.0.0/16","dev":"docker0"},{"dst":"10.0.0.7","dev":"eth0"}]`, ""},
		{"own bridge", `[{"dst":"172.30.0.0/24","dev":"` + Defaults().Bridge() + `"}]`, ""},
		{"inside the pod network", `[{"dst":"10.244.3.0/24","dev":"cni0"}]`, "--pod-cidr"},
		{"around the pod network", `[{"dst":"10.0.0.0/8","dev":"tun0"}]`, "--pod-cidr"},
		{"single address", `[{"dst":"172.30.0.9","dev":"eth0"}]`, "--node-cidr"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := overlappingRoutes(Defaults(), []byte(tt.routes))
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("error = %v, want none", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error = %v, want one with %q", err, tt.want)
			}
		})
	}
}
