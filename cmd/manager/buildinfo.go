// SPDX-License-Identifier: Apache-2.0

package main

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// version is set by the linker.
var version = "dev"

// buildInfo is 1, for joins: its labels say what runs.
func buildInfo() prometheus.Collector {
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "findep_operator_build_info",
		Help: "1, with the versions of the operator and of Go as labels.",
	}, []string{"version", "go_version"})
	info.WithLabelValues(version, runtime.Version()).Set(1)
	return info
}

func init() { metrics.Registry.MustRegister(buildInfo()) }
