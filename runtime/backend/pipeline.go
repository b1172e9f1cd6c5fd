// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"errors"
	"time"
)

// The ways in which a device or its peers fail that a person has to act upon.
// Their texts are part of the reason with which a rank reports its failure, so
// they reach the instance's status. Test with errors.Is.
var (
	// ErrMemoryExceeded is a plan that needs more memory than the device's pool
	// has; nothing of it was enqueued.
	ErrMemoryExceeded = errors.New("plan exceeds device memory")
	// ErrNoKernelImage is a device of an architecture that the library has no
	// code for.
	ErrNoKernelImage = errors.New("no kernel image for the device's architecture")
	// ErrDriverTooOld is a driver older than the library needs.
	ErrDriverTooOld = errors.New("device driver too old")
	// ErrNoCommLibrary is a communication library that cannot be loaded.
	ErrNoCommLibrary = errors.New("communication library missing")
	// ErrCommVersion is a rank whose communication library has another version
	// than the leader's.
	ErrCommVersion = errors.New("communication library versions differ")
	// ErrCommFailed is a peer or a link that failed.
	ErrCommFailed = errors.New("communication failed")
	// ErrTimedOut is a step or a connection that did not end in time.
	ErrTimedOut = errors.New("timed out on the device")
	// ErrDeviceLost is a device that must be opened again, by a new process.
	ErrDeviceLost = errors.New("device lost")
	// ErrCancelled is what was ended by Cancel, or by an event that was freed.
	ErrCancelled = errors.New("cancelled")
)

// PipelineConfig says who meets whom.
type PipelineConfig struct {
	Rank, World int
	// IDs are what PipelineIDs gave on the leader for this epoch.
	IDs []byte
	// Timeout bounds the meeting.
	Timeout time.Duration
}

// Pipelines is implemented by devices that run whole steps by themselves,
// transfers between ranks included. Others run a step operation by operation.
type Pipelines interface {
	// Pipelines tells whether this device really does.
	Pipelines() bool
	// ReservePool takes memory that all later buffers are cut from; one that no
	// longer fits is ErrMemoryExceeded.
	ReservePool(bytes int64) error
	// StreamBytes is what each stream, and each pipeline, takes of the pool when it
	// is made.
	StreamBytes() int64
	// PipelineIDs makes the ids by which the ranks of one epoch meet. The leader
	// calls it for each epoch; the ids are of no use twice.
	PipelineIDs() ([]byte, error)
	// OpenPipeline meets the other ranks. It returns when all have called it, or
	// with an error by the time-out.
	OpenPipeline(PipelineConfig) (Pipeline, error)
}

// TaskTime is when a task of a list ran, on the device's clock since the list began
// there. A transfer that receives begins when the device is ready for it, which may
// be long before its rows arrive.
type TaskTime struct{ Start, End time.Duration }

// Pipeline runs task lists (package tasklist). One goroutine at a time uses it,
// but for Cancel.
type Pipeline interface {
	// Run enqueues a list whose numbers stand for the buffers. It does not wait
	// for the device.
	Run(list []byte, buffers []Buffer) error
	// Wait returns when the list has run, or with an error by the time-out. After
	// an error of Run or Wait the pipeline can only be closed.
	Wait(timeout time.Duration) error
	// Times fills in when each task of the last list ran, once Wait has returned, if
	// the list asked for it.
	Times(tasks []TaskTime) error
	// Cancel makes Wait return with ErrCancelled, now and later.
	Cancel()
	// Close frees the pipeline.
	Close()
}
