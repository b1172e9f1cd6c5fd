// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestOptionsRefuse(t *testing.T) {
	cases := map[string]struct {
		args []string
		want string
	}{
		"unknown pull policy":       {[]string{"--image-pull-policy=Sometimes"}, "Always, IfNotPresent or Never"},
		"no runtime image":          {[]string{"--runtime-image="}, "--runtime-image"},
		"no workers":                {[]string{"--concurrency=0"}, "--concurrency is 0"},
		"no name of a Lease":        {[]string{"--leader-elect-lease=a b"}, `--leader-elect-lease is "a b"`},
		"unknown log format":        {[]string{"--log-format=xml"}, "json or console"},
		"unknown log level":         {[]string{"--log-level=loud"}, "--log-level"},
		"unknown flag":              {[]string{"--nonsense"}, "nonsense"},
		"unknown webhook mode":      {[]string{"--webhook-mode=On"}, "SelfManaged, Files or Disabled"},
		"webhooks without a Secret": {[]string{"--webhook-mode=SelfManaged", "--webhook-namespace=a", "--webhook-service=b", "--webhook-configuration=c"}, "--webhook-secret"},
		"webhooks without files":    {[]string{"--webhook-mode=Files"}, "--webhook-cert-dir"},
		"webhooks on no port":       {[]string{"--webhook-mode=Files", "--webhook-cert-dir=/a", "--webhook-port=0"}, "--webhook-port is 0"},
		"a collector without a URL": {[]string{"--otlp-endpoint=collector:4317"}, "--otlp-endpoint is"},
		"more than all reconciles":  {[]string{"--trace-ratio=2"}, "--trace-ratio is 2"},
		"an argument":               {[]string{"serve"}, "serve"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := command()
			c.SetArgs(tc.args)
			if err := c.Execute(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func TestNamespacedModeRestrictsTheCache(t *testing.T) {
	o := managerOptions(&options{watchNamespaces: []string{"a", "b"}})
	if len(o.Cache.DefaultNamespaces) != 2 {
		t.Errorf("got %v, want the caches of a and b", o.Cache.DefaultNamespaces)
	}
	if o := managerOptions(&options{}); o.Cache.DefaultNamespaces != nil {
		t.Errorf("got %v, want all namespaces", o.Cache.DefaultNamespaces)
	}
}

func TestCheckAsksUntilThereIsAnAnswer(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	c := &cobra.Command{}
	c.SetContext(context.Background())
	c.SetOut(io.Discard)
	if err := check(c, server.URL, 0); err != nil || asked != 3 {
		t.Errorf("asked %d times, got %v", asked, err)
	}
	asked = -1000
	if err := check(c, server.URL, 0); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("got %v, want the last answer", err)
	}
}
