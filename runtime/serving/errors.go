// SPDX-License-Identifier: Apache-2.0

package serving

import "time"

// RefusalKind says what a client can do about a refusal.
type RefusalKind int

// The kinds of refusal.
const (
	// Invalid: the request can never be served as it is.
	Invalid RefusalKind = iota
	// Busy: the queue is full; try again after RetryAfter.
	Busy
	// Unavailable: the instance has not formed or the server is going down.
	Unavailable
	// Failed: the engine failed on an accepted request.
	Failed
)

// Refusal is the error of a request that is not served.
type Refusal struct {
	Kind    RefusalKind
	Message string
	// Param and Code are those of the OpenAI error object; may be empty.
	Param, Code string
	// RetryAfter is a hint for Busy and Unavailable.
	RetryAfter time.Duration
}

// Error returns the message.
func (r *Refusal) Error() string { return r.Message }
