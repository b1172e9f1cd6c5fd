// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"path/filepath"
)

// Paths says where a cluster's files are.
type Paths struct {
	// Base holds everything that lasts: configuration, keys, data and logs.
	Base string
	// Run holds the sockets. It is apart from Base because a socket's path is
	// limited to 107 bytes.
	Run string
}

// runRoot holds the Run folders of all clusters.
const runRoot = "/run/findep"

// NewPaths returns the paths of the named cluster below the project's cache
// folder.
func NewPaths(cache, name string) Paths {
	return Paths{Base: filepath.Join(cache, "cluster", name), Run: filepath.Join(runRoot, name)}
}

func (p Paths) options() string   { return filepath.Join(p.Base, "options.json") }
func (p Paths) host() string      { return filepath.Join(p.Base, "host.json") }
func (p Paths) lock() string      { return p.Base + ".lock" }
func (p Paths) records() string   { return filepath.Join(p.Base, "run") }
func (p Paths) logs() string      { return filepath.Join(p.Base, "logs") }
func (p Paths) images() string    { return filepath.Join(p.Base, "images") }
func (p Paths) etcd() string      { return filepath.Join(p.Base, "etcd") }
func (p Paths) auth() string      { return filepath.Join(p.Base, "auth") }
func (p Paths) resolv() string    { return filepath.Join(p.Base, "resolv.conf") }
func (p Paths) manifests() string { return filepath.Join(p.Base, "manifests") }

// inAuth returns the path of a key, certificate, token or kubeconfig.
func (p Paths) inAuth(name string) string { return filepath.Join(p.auth(), name) }

// Kubeconfig is the path of the administrator's kubeconfig.
func (p Paths) Kubeconfig() string { return p.inAuth("admin.kubeconfig") }

func (p Paths) node(i int) string { return filepath.Join(p.Base, fmt.Sprintf("node%d", i)) }

// Socket is the path of node i's containerd.
func (p Paths) Socket(i int) string {
	return filepath.Join(p.Run, fmt.Sprintf("node%d", i), "containerd.sock")
}

func (p Paths) shimSockets(i int) string {
	return filepath.Join(p.Run, fmt.Sprintf("node%d", i), "s")
}
