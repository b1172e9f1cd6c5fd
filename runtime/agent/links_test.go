// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// flagged is what a command line gives.
func flagged(t *testing.T, args ...string) Options {
	t.Helper()
	var o Options
	f := pflag.NewFlagSet("rank", pflag.ContinueOnError)
	o.AddFlags(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestSharingOptions(t *testing.T) {
	directory := t.TempDir()
	for name, tc := range map[string]struct {
		args  []string
		opens bool
		want  string
	}{
		"by default":            {nil, true, ""},
		"in a directory":        {[]string{"--shared-directory", directory}, true, ""},
		"switched off":          {[]string{"--shared-memory", "off"}, false, ""},
		"not under a delay":     {[]string{"--data-delay", "1ms"}, false, ""},
		"unknown":               {[]string{"--shared-memory", "on"}, false, `--shared-memory is "on"; use auto or off`},
		"off with a directory":  {[]string{"--shared-memory", "off", "--shared-directory", directory}, false, "use one of them"},
		"delay and a directory": {[]string{"--data-delay", "1ms", "--shared-directory", directory}, false, "cannot be delayed"},
		"no such directory":     {[]string{"--shared-directory", directory + "/absent"}, false, "--shared-directory: shm: listen"},
	} {
		t.Run(name, func(t *testing.T) {
			a := agent{options: flagged(t, tc.args...), log: slog.New(slog.NewJSONHandler(io.Discard, nil))}
			err := a.options.validate()
			if err == nil {
				a.shared, err = a.openShared()
			}
			if a.shared != nil {
				defer func() { _ = a.shared.Close() }()
			}
			if (a.shared != nil) != tc.opens {
				t.Errorf("memory is shared: %v, want %v", a.shared != nil, tc.opens)
			}
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q in it", err, tc.want)
			}
		})
	}
}

func TestTheEnvironmentNamesTheDirectory(t *testing.T) {
	t.Setenv(sharedDirectoryVariable, "/run/findep/shared")
	if got := flagged(t).SharedDirectory; got != "/run/findep/shared" {
		t.Errorf("directory is %q", got)
	}
	if o := flagged(t, "--data-delay", "1ms"); o.DataDelay != time.Millisecond || o.validate() == nil {
		t.Error("a delay and a directory from the environment are taken together")
	}
}
