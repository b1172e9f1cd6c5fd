// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/findep/findep-operator/runtime/backend"
)

func TestWeightTypes(t *testing.T) {
	for text, want := range map[string]backend.DType{"": backend.F32, "F32": backend.F32, "BF16": backend.BF16} {
		o := Options{WeightType: text}
		if got, err := o.weightType(); err != nil || got != want {
			t.Errorf("%q is %s, %v; want %s", text, got, err, want)
		}
	}
}

func TestOptionsNameWhatIsWrong(t *testing.T) {
	for name, tc := range map[string]struct{ flag, want string }{
		"unknown weight type": {"--weight-type=F8", `--weight-type is "F8"; use F32 or BF16`},
		"rank out of range":   {"--rank=-1", "--rank is -1"},
		"silence too short":   {"--heartbeat-timeout=1ms", "--heartbeat-timeout is 1ms"},
		"negative drain":      {"--drain-timeout=-1s", "--drain-timeout is -1s"},
		"endless warm-up":     {"--warm-up-budget=1h", "--warm-up-budget is 1h"},
	} {
		t.Run(name, func(t *testing.T) {
			var o Options
			flags := pflag.NewFlagSet("", pflag.ContinueOnError)
			o.AddFlags(flags)
			if err := o.validate(); err != nil {
				t.Fatalf("the defaults: %v", err)
			}
			if err := flags.Parse([]string{tc.flag}); err != nil {
				t.Fatal(err)
			}
			if err := o.validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
