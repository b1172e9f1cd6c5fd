// SPDX-License-Identifier: Apache-2.0

package main

import (
	"golang.org/x/sync/errgroup"

	"github.com/findep/findep-operator/runtime/evaluation"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/solver"
)

// paperStudy is the comparison with the published tables.
type paperStudy struct {
	Paper *evaluation.Published
	// Fits holds the three variants of each testbed, Offline and Online the
	// predictions of a variant over all testbeds, Online by reading.
	Fits    [][]*evaluation.Fit
	Offline [][]evaluation.Prediction
	Online  [2][]evaluation.Prediction
}

var variants = []evaluation.Freedom{evaluation.Nothing, evaluation.Speeds, evaluation.SpeedsAndSamples}

// studyPaper fits every testbed, which takes most of the time of a report.
func studyPaper() (*paperStudy, error) {
	paper, err := evaluation.Paper()
	if err != nil {
		return nil, err
	}
	s := &paperStudy{Paper: paper, Fits: make([][]*evaluation.Fit, len(paper.Testbeds)), Offline: make([][]evaluation.Prediction, len(variants))}
	var group errgroup.Group
	for i := range paper.Testbeds {
		t := &paper.Testbeds[i]
		group.Go(func() error {
			for _, v := range variants {
				fit, err := evaluation.FitTestbed(t, evaluation.Observations(paper.Of(evaluation.OfflineTable, t.Name)), v)
				if err != nil {
					return err
				}
				s.Fits[i] = append(s.Fits[i], fit)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return s, s.predict()
}

func (s *paperStudy) predict() error {
	for i := range s.Paper.Testbeds {
		name := s.Paper.Testbeds[i].Name
		for v, fit := range s.Fits[i] {
			cells, err := fit.PredictOffline(s.Paper.Of(evaluation.OfflineTable, name))
			if err != nil {
				return err
			}
			s.Offline[v] = append(s.Offline[v], cells...)
		}
		for _, reading := range []evaluation.Reading{evaluation.Prompts, evaluation.Batches} {
			cells, err := s.Fits[i][len(variants)-1].PredictOnline(s.Paper.Of(evaluation.OnlineTable, name), reading)
			if err != nil {
				return err
			}
			s.Online[reading] = append(s.Online[reading], cells...)
		}
	}
	return nil
}

// caps are the numbers of samples in flight that scaling and link speed are
// shown for; 0 is what memory holds.
var caps = []int{1, 2, 3, 4, 0}

var (
	clusterSizes = []int{8, 16, 32, 64, 128, 256, 512, 1024}
	linkSpeeds   = []float64{3, 6, 12.5, 25, 50, 100, 200, 450, 900}
	models       = []string{"deepseek-ai/DeepSeek-V2", "Qwen/Qwen3-235B-A22B"}
)

// scaleStudy has a comparison per model, cap, and size or speed.
type scaleStudy struct {
	Sizes, Speeds [][][]*evaluation.Comparison
}

func studyScale() (*scaleStudy, error) {
	s := &scaleStudy{}
	for _, name := range models {
		var sizes, speeds [][]*evaluation.Comparison
		for _, samples := range caps {
			c := evaluation.Reference()
			c.Model, c.Samples = name, samples
			bySize, err := evaluation.Scaling(c, clusterSizes)
			if err != nil {
				return nil, err
			}
			bySpeed, err := evaluation.LinkSpeeds(c, linkSpeeds)
			if err != nil {
				return nil, err
			}
			sizes, speeds = append(sizes, bySize), append(speeds, bySpeed)
		}
		s.Sizes, s.Speeds = append(s.Sizes, sizes), append(s.Speeds, speeds)
	}
	return s, nil
}

// Numbers of random draws, and the seed of all of them.
const (
	seed           = 2512
	jitterDraws    = 200
	driftDraws     = 1000
	randomProblems = 2000
	orderProblems  = 100
)

var (
	noiseCaps   = []int{1, 2, 4}
	noiseLevels = []float64{0.05, 0.10, 0.20}
	driftLevels = []float64{0.05, 0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.40, 0.45, 0.50, 0.60, 0.70, 0.80}
)

// noiseStudy has jitter by cap and level; drift by cap, with random problems
// last, and level.
type noiseStudy struct {
	Compared []*evaluation.Comparison
	Jitter   [][]*evaluation.Jitter
	Drift    [][]*evaluation.Drift
}

func studyNoise() (*noiseStudy, error) {
	s := &noiseStudy{}
	for _, samples := range noiseCaps {
		c := evaluation.Reference()
		c.Samples = samples
		compared, err := evaluation.Compare(c)
		if err != nil {
			return nil, err
		}
		var jitter []*evaluation.Jitter
		for _, level := range noiseLevels {
			j, err := evaluation.TaskJitter(compared, level, jitterDraws, seed)
			if err != nil {
				return nil, err
			}
			jitter = append(jitter, j)
		}
		drift, err := drifts(func(level float64) (*evaluation.Drift, error) {
			return evaluation.StageDrift(compared, level, driftDraws, seed)
		})
		if err != nil {
			return nil, err
		}
		s.Compared, s.Jitter, s.Drift = append(s.Compared, compared), append(s.Jitter, jitter), append(s.Drift, drift)
	}
	random, err := drifts(func(level float64) (*evaluation.Drift, error) {
		return evaluation.RandomDrift(randomProblems, level, seed)
	})
	s.Drift = append(s.Drift, random)
	return s, err
}

func drifts(at func(float64) (*evaluation.Drift, error)) ([]*evaluation.Drift, error) {
	var all []*evaluation.Drift
	for _, level := range driftLevels {
		d, err := at(level)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

// pressureSplit is the split of the cluster under memory pressure.
var pressureSplit = solver.Split{Attention: 4, Expert: 4}

// pressureStudy has rows for both groups; Curve is a fine scan of the
// attention group for the plot.
type pressureStudy struct {
	Attention, Expert, Curve []evaluation.Pressure
}

func studyPressure() (*pressureStudy, error) {
	c := evaluation.Reference()
	c.Model, c.GPUs = "Qwen/Qwen3-235B-A22B", pressureSplit.Total()
	s := &pressureStudy{}
	var err error
	if s.Attention, err = evaluation.UnderPressure(c, pressureSplit, plan.Attention, []float64{0.5, 0.9, 0.95, 0.98, 0.99, 0.995}); err != nil {
		return nil, err
	}
	if s.Expert, err = evaluation.UnderPressure(c, pressureSplit, plan.Expert, []float64{0.5, 0.9, 0.95, 0.99, 0.999, 0.9999}); err != nil {
		return nil, err
	}
	var scan []float64
	for permille := 850; permille <= 991; permille++ {
		scan = append(scan, float64(permille)/1000)
	}
	s.Curve, err = evaluation.UnderPressure(c, pressureSplit, plan.Attention, scan)
	return s, err
}

// randomStudy has the gains without chunks by cap, the last being large, and
// with up to 8 chunks for few samples.
type randomStudy struct {
	ByCap []*evaluation.Gains
	// Few mixes caps from 1 to 4, Chunked too with chunks for both policies.
	Few, Chunked *evaluation.Gains
}

const largeCap = 4096

func studyRandom() (*randomStudy, error) {
	s := &randomStudy{}
	for _, most := range []int{1, 2, 3, 4, largeCap} {
		g, err := evaluation.RandomGains(randomProblems, seed, most, most, 1)
		if err != nil {
			return nil, err
		}
		s.ByCap = append(s.ByCap, g)
	}
	var err error
	if s.Few, err = evaluation.RandomGains(randomProblems, seed, 1, 4, 1); err != nil {
		return nil, err
	}
	s.Chunked, err = evaluation.RandomGains(randomProblems, seed, 1, 4, 8)
	return s, err
}

func studyChunks() ([]*evaluation.ChunkRow, error) {
	var rows []*evaluation.ChunkRow
	for _, c := range evaluation.ChunkCases() {
		row, err := evaluation.SolveChunks(c)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// orderRow is the gain of better orders on random problems of one depth.
type orderRow struct {
	Layers              int
	Median, Tenth, Most float64
}

// orderPlan is the gain of better orders on a real problem's plan.
type orderPlan struct {
	Compared *evaluation.Comparison
	Gain     float64
}

type orderStudy struct {
	Random []orderRow
	Plans  []orderPlan
}

func studyOrders() (*orderStudy, error) {
	s := &orderStudy{}
	for _, layers := range []int{3, 8, 26, 60} {
		gains, err := evaluation.RandomOrderGains(orderProblems, seed, layers)
		if err != nil {
			return nil, err
		}
		n := len(gains)
		s.Random = append(s.Random, orderRow{layers, gains[n/2], gains[n*9/10], gains[n-1]})
	}
	for _, name := range append([]string{"deepseek-ai/DeepSeek-V2-Lite"}, models[0]) {
		for _, samples := range noiseCaps {
			c := evaluation.Reference()
			c.Model, c.Samples = name, samples
			compared, err := evaluation.Compare(c)
			if err != nil {
				return nil, err
			}
			gain, err := evaluation.OrderGain(&compared.FinDEP.Problem, compared.FinDEP.Result.Plan)
			if err != nil {
				return nil, err
			}
			s.Plans = append(s.Plans, orderPlan{compared, gain})
		}
	}
	return s, nil
}
