// SPDX-License-Identifier: Apache-2.0

package profile_test

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/findep/findep-operator/runtime/profile"
)

func TestPresetNames(t *testing.T) {
	for name, want := range map[string]string{"H100-SXM": "h100-sxm", "H100": "h100-sxm", "RTX-A6000": "a6000"} {
		if p, err := profile.Preset(name); err != nil || p.Name != want {
			t.Errorf("Preset(%q) is %+v, %v; want %s", name, p, err, want)
		}
	}
	for _, name := range []string{"tpu", "", "../profile", "cpu\x00"} {
		_, err := profile.Preset(name)
		if err == nil || !strings.Contains(err.Error(), "cpu, h100-sxm, h20") {
			t.Errorf("Preset(%q): error %v, want one that lists the presets", name, err)
		}
	}
}

func TestUsableBytes(t *testing.T) {
	tests := map[string]struct {
		profile profile.Profile
		want    int64
	}{
		"nine tenths of 24 GiB": {profile.Profile{MemoryBytes: 24 << 30, UsableMemoryPermille: 900}, 23_192_823_398},
		"less a reserve":        {profile.Profile{MemoryBytes: 1000, UsableMemoryPermille: 900, ReservedBytes: 100}, 800},
		"never negative":        {profile.Profile{MemoryBytes: 1000, UsableMemoryPermille: 900, ReservedBytes: 1000}, 0},
		"no overflow":           {profile.Profile{MemoryBytes: 1 << 50, UsableMemoryPermille: 1000}, 1 << 50},
	}
	for name, tc := range tests {
		if got := tc.profile.UsableBytes(); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
}

func TestValidateNamesTheField(t *testing.T) {
	tests := map[string]struct {
		change func(*profile.Profile)
		want   string
	}{
		"no name":          {func(p *profile.Profile) { p.Name = "" }, "name is 0 bytes"},
		"no memory":        {func(p *profile.Profile) { p.MemoryBytes = 0 }, "memoryBytes is 0"},
		"too usable":       {func(p *profile.Profile) { p.UsableMemoryPermille = 1001 }, "usableMemoryPermille is 1001"},
		"negative reserve": {func(p *profile.Profile) { p.ReservedBytes = -1 }, "reservedBytes is -1"},
		"negative alpha":   {func(p *profile.Profile) { p.GEMM.AlphaMicroseconds = -1 }, "gemm.alphaMicroseconds is -1"},
		"NaN":              {func(p *profile.Profile) { p.Attention.MicrosecondsPerGigaMAC = math.NaN() }, "attention.microsecondsPerGigaMAC is NaN"},
		"infinite":         {func(p *profile.Profile) { p.Link.AlphaMicroseconds = math.Inf(1) }, "link.alphaMicroseconds is +Inf"},
		"infinitely fast":  {func(p *profile.Profile) { p.Link.MicrosecondsPerMegabyte = 0 }, "link.microsecondsPerMegabyte is 0"},
		"R2 above one":     {func(p *profile.Profile) { p.GroupedGEMM.RSquared = 1.5 }, "groupedGEMM.rSquared is 1.5"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p, err := profile.Preset("cpu")
			if err != nil {
				t.Fatal(err)
			}
			tc.change(p)
			if err := p.Validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
			if _, err := p.Encode(); err == nil {
				t.Error("an invalid profile was encoded")
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	p, err := profile.Preset("cpu")
	if err != nil {
		t.Fatal(err)
	}
	good, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for want, data := range map[string]string{
		"unknown field": `{"name":"x","gem":{}}`,
		"EOF":           "",
		"after":         string(good) + "{}",
		"at most":       strings.Repeat(" ", 1<<17),
		"memoryBytes":   `{"name":"x"}`,
	} {
		if _, err := profile.Decode([]byte(data)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Decode: error %v, want one with %q", err, want)
		}
	}
}

// TV8 of the mathematics, and what clamping does.
func TestFitLineTV8(t *testing.T) {
	tests := map[string]struct {
		x, y            []float64
		alpha, beta, r2 float64
	}{
		"exact":               {[]float64{1, 2, 3, 4}, []float64{3, 5, 7, 9}, 1, 2, 1},
		"published makespans": {[]float64{1, 2, 4}, []float64{30.31529086692653, 50.08763706028614, 86.53521126760563}, 12.091503763, 18.666232558, 0.999578804},
		"through the origin":  {[]float64{1, 2, 3}, []float64{1, 3, 5}, 0, 22.0 / 14, 53.0 / 56},
		"falling":             {[]float64{1, 2}, []float64{3, 1}, 2, 0, 0},
		"constant":            {[]float64{1, 2}, []float64{3, 3}, 3, 0, 1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			f, err := profile.FitLine(tc.x, tc.y)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range [][2]float64{{f.Alpha, tc.alpha}, {f.Beta, tc.beta}, {f.RSquared, tc.r2}} {
				if math.Abs(v[0]-v[1]) > 1e-8 {
					t.Errorf("got %+v, want alpha %v, beta %v, R2 %v", f, tc.alpha, tc.beta, tc.r2)
				}
			}
		})
	}
}

func TestFitLineRecoversExactLines(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	for range 2000 {
		alpha, beta := r.Float64()*10, r.Float64()*5
		n := 2 + r.IntN(20)
		x, y := make([]float64, n), make([]float64, n)
		for i := range x {
			x[i] = float64(i) * (1 + r.Float64())
			y[i] = alpha + beta*x[i]
		}
		f, err := profile.FitLine(x, y)
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(f.Alpha-alpha) > 1e-9 || math.Abs(f.Beta-beta) > 1e-9 || f.Acceptable() != nil {
			t.Fatalf("fit %+v of alpha %v beta %v", f, alpha, beta)
		}
	}
}

func TestFitLineRefuses(t *testing.T) {
	nan := math.NaN()
	for name, p := range map[string][2][]float64{
		"one point":        {{1}, {1}},
		"unequal lengths":  {{1, 2}, {1}},
		"one size":         {{2, 2}, {1, 3}},
		"NaN":              {{1, 2}, {1, nan}},
		"infinite":         {{1, math.Inf(1)}, {1, 2}},
		"overflowing size": {{1, 1e300}, {1, 2}},
		"zero time":        {{1, 2}, {0, 2}},
	} {
		if f, err := profile.FitLine(p[0], p[1]); err == nil {
			t.Errorf("%s: accepted as %+v", name, f)
		}
	}
}

func TestAcceptableSaysWhichThreshold(t *testing.T) {
	for want, f := range map[string]profile.Fit{
		"R2 is 0.9800":          {RSquared: 0.98},
		"largest error is 20 %": {RSquared: 0.999, MaxRelativeError: 0.2},
	} {
		if err := f.Acceptable(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	p, err := profile.Preset("cpu")
	if err != nil {
		f.Fatal(err)
	}
	good, err := p.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"name":"x","memoryBytes":1e400}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := profile.Decode(data)
		if err != nil {
			return
		}
		if p.UsableBytes() < 0 {
			t.Errorf("usable bytes %d", p.UsableBytes())
		}
		if _, err := p.Encode(); err != nil {
			t.Errorf("decoded but not encodable: %v", err)
		}
	})
}
