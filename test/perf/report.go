// SPDX-License-Identifier: Apache-2.0

package main

// result is what was measured of one subject.
type result struct {
	Subject      string `json:"subject"`
	Groups       int    `json:"groups"`
	PodsPerGroup int    `json:"podsPerGroup"`
	Nodes        int    `json:"nodes"`
	// Seconds are counted from the first apply.
	CreatedSeconds   float64 `json:"createdSeconds"`
	RunningSeconds   float64 `json:"runningSeconds"`
	AvailableSeconds float64 `json:"availableSeconds,omitempty"`
	// PodsPerSecond is the number of pods over RunningSeconds.
	PodsPerSecond float64 `json:"podsPerSecond"`
	// WritesPerPod counts requests of the subject that may change something, events
	// included, up to the moment when all groups were available.
	WritesPerPod float64  `json:"writesPerPod"`
	Create       spending `json:"create"`
	// Plane is what the other processes had cost by then, by name.
	Plane map[string]usage `json:"plane"`

	Rest    *spending `json:"rest,omitempty"`
	Restart *spending `json:"restart,omitempty"`
	Roll    *spending `json:"roll,omitempty"`
}

// spending is what a phase has cost.
type spending struct {
	Seconds      float64 `json:"seconds,omitempty"`
	Calls        calls   `json:"calls"`
	Writes       int     `json:"writes"`
	Reads        int     `json:"reads"`
	Reconciles   int     `json:"reconciles,omitempty"`
	Observations int     `json:"observations,omitempty"`
	usage
}
