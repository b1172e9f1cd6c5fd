// SPDX-License-Identifier: Apache-2.0

package local_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/findep/findep-operator/runtime/local"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/serving"
	"github.com/findep/findep-operator/runtime/transport"
	"github.com/findep/findep-operator/runtime/transport/shm/shmtest"
)

// inDirectory runs a rank that meets others to share memory in a directory only.
func inDirectory(directory string) []string {
	return []string{"env", "FINDEP_SHARED_DIRECTORY=" + directory}
}

// linked starts two attention ranks and one expert rank.
func linked(t *testing.T, place func(rank int) (string, []string), args ...string) (*local.Instance, *serving.Client, *buffer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log := &buffer{}
	in, err := local.Start(t.Context(), local.Options{
		ModelDir: tinyModel, Attention: 2, Expert: 1, MaxContextTokens: 512,
		Schedule: plan.Schedule{Policy: plan.FinDEP, Order: plan.OrderAuto, Chunks: "Off", Resolve: "Online"},
		Command:  []string{self, "rank"}, ExtraArgs: append([]string{"--backend", backendName(), "--warm-up=false", "--heartbeat-timeout", patience}, args...),
		Place: place, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Stop()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	client, err := serving.Dial(in.Socket(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return in, client, log
}

// shownLinks is what a rank's /debug/plan says of its links.
func shownLinks(t *testing.T, in *local.Instance, rank int) []transport.LinkKinds {
	t.Helper()
	r, err := http.Get(fmt.Sprintf("http://%s/debug/plan", net.JoinHostPort(local.Host, fmt.Sprint(in.Config.Ports[rank].Metrics))))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	var page struct{ Links []transport.LinkKinds }
	if err := json.NewDecoder(r.Body).Decode(&page); err != nil {
		t.Fatal(err)
	}
	return page.Links
}

// TestLinksAreChosenPerPeerAndShown: whatever carries the rows, the tokens are
// the same, and /debug/plan and the metrics say what it is.
func TestLinksAreChosenPerPeerAndShown(t *testing.T) {
	const shm, tls, tcp = transport.KindShared, transport.KindTLS, transport.KindTCP
	elsewhere := shmtest.Directory(t)
	for _, tc := range []struct {
		name  string
		place func(rank int) (string, []string)
		args  []string
		// kinds of the links to attention ranks 0 and 1.
		kinds [2]transport.Kind
	}{
		{"one network namespace", nil, nil, [2]transport.Kind{shm, shm}},
		{"not wanted", nil, []string{"--shared-memory=off"}, [2]transport.Kind{tls, tls}},
		{"neither that nor TLS", nil, []string{"--shared-memory=off", "--plain-data"}, [2]transport.Kind{tcp, tcp}},
		{"one rank elsewhere", func(rank int) (string, []string) {
			if rank == 1 {
				return local.Host, inDirectory(elsewhere)
			}
			return local.Host, nil
		}, nil, [2]transport.Kind{shm, tls}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in, client, _ := linked(t, tc.place, tc.args...)
			generate(t, client, ready(t, client, 0), 2, prompts(t)[:2])
			var atExpert []transport.LinkKinds
			for rank, kind := range tc.kinds {
				atExpert = append(atExpert, transport.LinkKinds{Peer: rank, Send: kind, Receive: kind})
				want := []transport.LinkKinds{{Peer: 2, Send: kind, Receive: kind}}
				if got := shownLinks(t, in, rank); !slices.Equal(got, want) {
					t.Errorf("rank %d shows %v, want %v", rank, got, want)
				}
				if got := metric(t, in, rank, `findep_data_links{direction="send",rank="`+fmt.Sprint(rank)+`",transport="`+string(kind)+`"}`); got != "1" {
					t.Errorf("rank %d counts %s links by %s", rank, got, kind)
				}
			}
			if got := shownLinks(t, in, 2); !slices.Equal(got, atExpert) {
				t.Errorf("the expert rank shows %v, want %v", got, atExpert)
			}
		})
	}
}

// TestADirectoryReachesAcrossNamespaces: groups in network namespaces of their
// own, as pods are, share memory if they share a directory.
func TestADirectoryReachesAcrossNamespaces(t *testing.T) {
	if _, err := exec.LookPath("ip"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and iproute2")
	}
	for _, tc := range []struct {
		name, directory string
		kind            transport.Kind
	}{{"with", shmtest.Directory(t), transport.KindShared}, {"without", "", transport.KindTLS}} {
		t.Run(tc.name, func(t *testing.T) {
			link, err := local.NewLink("")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = link.Close() })
			place := link.Place(2, false)
			_, client, log := linked(t, func(rank int) (string, []string) {
				host, under := place(rank)
				return host, append(under, inDirectory(tc.directory)...)
			})
			generate(t, client, ready(t, client, 0), 2, prompts(t)[:2])
			want := fmt.Sprintf(`"links":[{"peer":0,"send":%q,"receive":%[1]q},{"peer":1,"send":%[1]q,"receive":%[1]q}]`, tc.kind)
			if !strings.Contains(log.String(), want) {
				t.Errorf("the expert rank does not log %s", want)
			}
		})
	}
}
