// SPDX-License-Identifier: Apache-2.0

package plan

// Observation is what the leader of an instance reports to the operator. The
// operator keeps nothing of it between two reads, so a restart of either side
// loses nothing.
type Observation struct {
	// Epoch is the current membership epoch; 0 before the first rendezvous.
	Epoch uint64 `json:"epoch"`
	// Formed is true while every rank of the epoch heartbeats.
	Formed bool `json:"formed"`
	// Ranks describes each rank in rank order.
	Ranks []RankState `json:"ranks"`
	// TopologyHash and ScheduleHash identify the configuration in use; the
	// operator compares them with what it rendered.
	TopologyHash string `json:"topologyHash"`
	ScheduleHash string `json:"scheduleHash"`
	// Prefill and Decode are the plans last executed in each phase, with what
	// was predicted and measured for them; nil before the first such step.
	Prefill *PhaseObservation `json:"prefill,omitempty"`
	Decode  *PhaseObservation `json:"decode,omitempty"`
	// Serving is what the model server last reported; nil before that.
	Serving *ServingObservation `json:"serving,omitempty"`
	// Steps counts executed steps since the leader's process started.
	Steps uint64 `json:"steps"`
	// Refused counts peers and messages refused, by reason (certificate, epoch,
	// topology, rank, version).
	Refused map[string]uint64 `json:"refused,omitempty"`
	// LastFailure is the reason the previous epoch ended, empty if none did.
	LastFailure string `json:"lastFailure,omitempty"`
}

// RankState is the leader's view of one rank.
type RankState struct {
	Rank   int    `json:"rank"`
	Role   Role   `json:"role"`
	Host   string `json:"host"`
	Joined bool   `json:"joined"`
	// Message says what is wrong while the rank is not joined.
	Message string `json:"message,omitempty"`
	// Device says how the rank's device does; nil where nothing watches one, as
	// on the CPU backend, and until the first heartbeat.
	Device *DeviceHealth `json:"device,omitempty"`
	// ProfileMismatch says how the rank's device is another than the one that its
	// group's profile describes; empty if it is not.
	ProfileMismatch string `json:"profileMismatch,omitempty"`
}

// DeviceState is how a device does.
type DeviceState string

// The states of a device.
const (
	// DeviceHealthy has no sign of trouble.
	DeviceHealthy DeviceState = "Healthy"
	// DeviceDegraded computes correctly, and slower than it should or with
	// spare parts used up. Serving goes on.
	DeviceDegraded DeviceState = "Degraded"
	// DeviceFailed cannot be trusted or reached; the rank needs another device.
	DeviceFailed DeviceState = "Failed"
)

// DeviceHealth is a rank's report about its device.
type DeviceHealth struct {
	State DeviceState `json:"state"`
	// Reason is one word in CamelCase, see package devices; Message is for
	// people. Both are empty while the device is healthy.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// UUID and Product identify the device.
	UUID    string `json:"uuid,omitempty"`
	Product string `json:"product,omitempty"`
}

// PhaseObservation compares prediction and measurement for one phase.
type PhaseObservation struct {
	Plan Plan `json:"plan"`
	// Samples is the number of sequences in the step, SequenceTokens the mean
	// number of new tokens per sequence.
	Samples        int     `json:"samples"`
	SequenceTokens float64 `json:"sequenceTokens"`
	// Predicted and Measured makespan of one step in milliseconds; both are
	// medians over the recent steps of this shape.
	PredictedMilliseconds float64 `json:"predictedMilliseconds"`
	MeasuredMilliseconds  float64 `json:"measuredMilliseconds"`
	// TokensPerSecond is measured over the recent steps.
	TokensPerSecond float64 `json:"tokensPerSecond"`
	// Solves counts how often the solver ran, Changes how often it changed
	// the plan.
	Solves  uint64 `json:"solves"`
	Changes uint64 `json:"changes"`
}

// ServingObservation is the model server's view of its requests.
type ServingObservation struct {
	Running                        int     `json:"running"`
	Waiting                        int     `json:"waiting"`
	RequestsTotal                  uint64  `json:"requestsTotal"`
	TimeToFirstTokenMilliseconds   float64 `json:"timeToFirstTokenMilliseconds"`
	TimePerOutputTokenMilliseconds float64 `json:"timePerOutputTokenMilliseconds"`
	TokensPerSecond                float64 `json:"tokensPerSecond"`
	KVCacheUsedTokens              int     `json:"kvCacheUsedTokens"`
	KVCacheTokens                  int     `json:"kvCacheTokens"`
}
