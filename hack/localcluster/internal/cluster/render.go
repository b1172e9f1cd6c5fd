// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"embed"
	"encoding/base64"
	"fmt"
	"path"
	"path/filepath"
	"text/template"

	"github.com/findep/findep-operator/hack/localcluster/binaries"
)

//go:embed templates/*.tmpl
var templateFiles embed.FS

var templates = template.Must(template.New("").Option("missingkey=error").ParseFS(templateFiles, "templates/*.tmpl"))

// Images that every node holds.
const (
	pauseImage   = "localhost/pause:1"
	coreDNSImage = "localhost/coredns:" + binaries.CoreDNSVersion
)

func render(name string, data any) ([]byte, error) {
	var out bytes.Buffer
	if err := templates.ExecuteTemplate(&out, name+".tmpl", data); err != nil {
		return nil, fmt.Errorf("render %s: %w", name, err)
	}
	return out.Bytes(), nil
}

// nodeFiles renders the configuration files of node i, by path. The snapshotter
// is containerd's name for how it stores image layers.
func nodeFiles(o Options, p Paths, i int, snapshotter string) (map[string][]byte, error) {
	data := map[string]any{
		"Name": o.NodeName(i), "Netns": o.Netns(i), "Addr": o.NodeAddr(i),
		"Dir": p.node(i), "Socket": p.Socket(i), "ShimSockets": p.shimSockets(i),
		"Snapshotter": snapshotter, "PauseImage": pauseImage, "CNIBinDir": o.CNIBinDir,
		"CA": p.inAuth("ca.crt"), "ProxyKubeconfig": p.inAuth("kube-proxy.kubeconfig"),
		"Cgroup": path.Join(o.Cgroup(), o.NodeName(i)), "Resolv": p.resolv(),
		"DNS": o.DNSAddr(), "PodCIDR": o.PodCIDR, "PodSubnet": o.PodSubnet(i), "FastFaults": o.FastFaults,
	}
	files := map[string][]byte{}
	for _, f := range []struct{ name, path string }{
		{"containerd.toml", "containerd.toml"},
		{"kubelet.yaml", "kubelet.yaml"},
		{"kube-proxy.yaml", "kube-proxy.yaml"},
		{"10-bridge.conflist", "cni/10-bridge.conflist"},
	} {
		content, err := render(f.name, data)
		if err != nil {
			return nil, err
		}
		files[filepath.Join(p.node(i), f.path)] = content
	}
	return files, nil
}

// sharedFiles renders the files that belong to no node.
func sharedFiles(o Options, p Paths) (map[string][]byte, error) {
	dns, err := render("coredns.yaml", map[string]any{"DNS": o.DNSAddr(), "Image": coreDNSImage})
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		filepath.Join(p.manifests(), "coredns.yaml"): dns,
		// Pods that ask for the node's DNS get a name server that does not
		// exist: nothing inside the cluster may depend on names outside.
		p.resolv(): []byte("nameserver 127.0.0.1\n"),
	}, nil
}

// kubeconfig renders a kubeconfig that holds all it needs, so that the file may
// be copied elsewhere.
func kubeconfig(o Options, user, token string, ca []byte) ([]byte, error) {
	context := o.Name
	return render("kubeconfig", map[string]any{
		"Cluster": o.Name, "Context": context, "Server": o.Server(), "User": user, "Token": token,
		"CAData": base64.StdEncoding.EncodeToString(ca),
	})
}
