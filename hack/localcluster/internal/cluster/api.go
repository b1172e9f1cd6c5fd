// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// apiClient speaks to the API server as the administrator. The few requests made
// here do not justify client-go, which would make every use of this command wait
// half a minute for the compiler.
type apiClient struct {
	server, token string
	http          *http.Client
}

func newAPIClient(o Options, p Paths) (*apiClient, error) {
	ca, err := os.ReadFile(p.inAuth("ca.crt"))
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(p.inAuth("admin.token"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{Proxy: nil, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	return &apiClient{server: o.Server(), token: string(token),
		http: &http.Client{Transport: transport, Timeout: 10 * time.Second}}, nil
}

// maxResponse bounds what is read of a response.
const maxResponse = 16 << 20

// do sends a request and decodes the answer into out unless that is nil.
func (a *apiClient) do(ctx context.Context, method, path, contentType string, body, out any) error {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, a.server+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+a.token)
	request.Header.Set("Accept", "application/json")
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := a.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxResponse))
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, response.Status, bytes.TrimSpace(answer))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

func (a *apiClient) get(ctx context.Context, path string, out any) error {
	return a.do(ctx, http.MethodGet, path, "", nil, out)
}

// nodeObject is the part of a Node that is looked at here.
type nodeObject struct {
	Metadata struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels"`
	} `json:"metadata"`
	Status struct {
		Capacity    map[string]string `json:"capacity"`
		Allocatable map[string]string `json:"allocatable"`
		Conditions  []struct {
			Type   string `json:"type"`
			Status string `json:"status"`
		} `json:"conditions"`
	} `json:"status"`
}

func (n nodeObject) ready() bool {
	for _, c := range n.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

func (a *apiClient) nodes(ctx context.Context) (map[string]nodeObject, error) {
	var list struct {
		Items []nodeObject `json:"items"`
	}
	if err := a.get(ctx, "/api/v1/nodes", &list); err != nil {
		return nil, err
	}
	nodes := map[string]nodeObject{}
	for _, n := range list.Items {
		nodes[n.Metadata.Name] = n
	}
	return nodes, nil
}

const (
	gpuResource  = "nvidia.com/gpu"
	rackLabel    = "topology.kubernetes.io/rack"
	productLabel = "nvidia.com/gpu.product"
)

// labelNode sets the labels that a kubelet may not give itself.
func (a *apiClient) labelNode(ctx context.Context, o Options, i int) error {
	labels := map[string]string{rackLabel: o.Rack(i), productLabel: o.Product}
	return a.do(ctx, http.MethodPatch, "/api/v1/nodes/"+o.NodeName(i), "application/merge-patch+json",
		map[string]any{"metadata": map[string]any{"labels": labels}}, nil)
}

// advertiseGPUs sets the simulated GPUs of a node. The kubelet keeps extended
// resources that it does not know; allocatable is set as well because it would
// follow only with the kubelet's next report.
func (a *apiClient) advertiseGPUs(ctx context.Context, o Options, i int) error {
	amount := map[string]string{gpuResource: fmt.Sprint(o.GPUs)}
	return a.do(ctx, http.MethodPatch, "/api/v1/nodes/"+o.NodeName(i)+"/status", "application/merge-patch+json",
		map[string]any{"status": map[string]any{"capacity": amount, "allocatable": amount}}, nil)
}

// hasGPUs reports whether a node shows the options' amount to the scheduler.
func (n nodeObject) hasGPUs(o Options) bool {
	want := fmt.Sprint(o.GPUs)
	return n.Status.Capacity[gpuResource] == want && n.Status.Allocatable[gpuResource] == want
}

// dnsReady reports whether a CoreDNS pod answers.
func (a *apiClient) dnsReady(ctx context.Context) (bool, error) {
	var deployment struct {
		Status struct {
			AvailableReplicas int `json:"availableReplicas"`
		} `json:"status"`
	}
	err := a.get(ctx, "/apis/apps/v1/namespaces/kube-system/deployments/coredns", &deployment)
	return deployment.Status.AvailableReplicas > 0, err
}
