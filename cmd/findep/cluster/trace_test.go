// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func runTrace(t *testing.T, args ...string) (out, progress string, err error) {
	t.Helper()
	cmd := NewTrace()
	var o, p bytes.Buffer
	cmd.SetOut(&o)
	cmd.SetErr(&p)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	// Without arguments cobra would take those of the test.
	cmd.SetArgs(append([]string{}, args...))
	err = cmd.Execute()
	return o.String(), p.String(), err
}

func TestTraceAsksRankZero(t *testing.T) {
	const text = `{"traceEvents":[{"name":"a","ph":"X","pid":0,"tid":0,"ts":0,"dur":1}]}`
	var query string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		query = q.URL.String()
		_, _ = w.Write([]byte(text))
	}))
	defer s.Close()
	out, _, err := runTrace(t, "--url", s.URL, "--steps", "3", "--timeout", "2s")
	if err != nil || out != text || query != "/debug/trace?steps=3&timeout=2s" {
		t.Errorf("%v; asked for %q, printed %q", err, query, out)
	}
	file := filepath.Join(t.TempDir(), "t.json")
	_, progress, err := runTrace(t, "--url", s.URL, "-o", file)
	if written, _ := os.ReadFile(file); err != nil || string(written) != text || !strings.Contains(progress, "1 bars") {
		t.Errorf("%v; wrote %q, said %q", err, written, progress)
	}
}

func TestTraceRefuses(t *testing.T) {
	idle := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no step ran", http.StatusGatewayTimeout)
	}))
	defer idle.Close()
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	defer page.Close()
	for _, tc := range []struct {
		name, want string
		args       []string
	}{
		{"nothing named", "name a MoEDeployment", nil},
		{"both named", "but not both", []string{"x", "--url", idle.URL}},
		{"no address", "--url is", []string{"--url", "nonsense"}},
		{"idle instance", "no step ran", []string{"--url", idle.URL}},
		{"not a trace", "no trace", []string{"--url", page.URL}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, _, err := runTrace(t, tc.args...); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want one with %q", err, tc.want)
			}
		})
	}
}
