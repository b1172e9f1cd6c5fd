// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/findep/findep-operator/runtime/plan"
)

// collector shows a Monitor's snapshot to Prometheus. A scrape asks the driver
// nothing.
type collector struct {
	monitor                                                         *Monitor
	age, health, temperature, power, throttled, errors, links, xids *prometheus.Desc
}

// Collector returns the metrics of a monitor's GPUs; none where there is no
// driver.
func Collector(m *Monitor) prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("findep_gpu_"+name, help, append([]string{"index", "uuid"}, labels...), nil)
	}
	return &collector{
		monitor:     m,
		age:         prometheus.NewDesc("findep_gpu_reading_age_seconds", "Time since the NVIDIA driver last answered; no series where there is no driver.", nil, nil),
		health:      desc("health", "1 for the state a GPU is in: Healthy, Degraded or Failed; reason says why.", "state", "reason"),
		temperature: desc("temperature_celsius", "Temperature of a GPU."),
		power:       desc("power_watts", "Power that a GPU draws."),
		throttled:   desc("throttled", "1 while a GPU's clocks are held down for a reason.", "reason"),
		errors:      desc("ecc_errors_total", "Errors of a GPU's memory since the driver was loaded.", "kind"),
		links:       desc("nvlinks_up", "NVLink links of a GPU that are up."),
		xids:        desc("xid_errors_total", "Errors that the driver reported since the process started, by XID.", "xid"),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.age, c.health, c.temperature, c.power, c.throttled, c.errors, c.links, c.xids} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	s := c.monitor.Snapshot()
	if s == nil || s.Err != nil {
		return
	}
	out <- prometheus.MustNewConstMetric(c.age, prometheus.GaugeValue, c.monitor.options.Now().Sub(s.At).Seconds())
	for i := range s.GPUs {
		c.gpu(out, i, &s.GPUs[i])
	}
}

func (c *collector) gpu(out chan<- prometheus.Metric, index int, s *Status) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, append([]string{strconv.Itoa(index), s.GPU.UUID}, labels...)...)
	}
	counter := func(d *prometheus.Desc, value uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), append([]string{strconv.Itoa(index), s.GPU.UUID}, labels...)...)
	}
	health := s.Health
	if told := c.monitor.Health(index); told != nil {
		health = *told
	}
	for _, state := range []plan.DeviceState{plan.DeviceHealthy, plan.DeviceDegraded, plan.DeviceFailed} {
		if state == health.State {
			gauge(c.health, 1, string(state), health.Reason)
		} else {
			gauge(c.health, 0, string(state), "")
		}
	}
	r := &s.Reading
	if r.TemperatureKnown {
		gauge(c.temperature, r.TemperatureCelsius)
	}
	if r.PowerKnown {
		gauge(c.power, r.PowerWatts)
	}
	for _, t := range throttles {
		value := 0.0
		if r.Throttle&t.bit != 0 {
			value = 1
		}
		gauge(c.throttled, value, t.name)
	}
	if r.ECCKnown {
		counter(c.errors, r.Corrected, "corrected")
		counter(c.errors, r.Uncorrected, "uncorrected")
	}
	gauge(c.links, float64(r.links()))
	for number, count := range s.XIDs {
		counter(c.xids, count, strconv.FormatUint(number, 10))
	}
}
