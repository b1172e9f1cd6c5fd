// SPDX-License-Identifier: Apache-2.0

package rendezvous

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/findep/findep-operator/runtime/rendezvous/rendezvouspb"
)

// RefusedError is why the leader did not admit a rank.
type RefusedError struct {
	Reason Reason
	// Retry is true if the same request may succeed later.
	Retry   bool
	Message string
}

// Error implements error.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("rendezvous: refused (%s): %s", e.Reason, e.Message)
}

func refuse(reason Reason, format string, args ...any) *RefusedError {
	return &RefusedError{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// GRPCStatus is how a refusal travels; it makes status.FromError work.
func (e *RefusedError) GRPCStatus() *status.Status {
	code := codes.FailedPrecondition
	switch {
	case e.Retry:
		code = codes.AlreadyExists
	case e.Reason == RefusedCertificate:
		code = codes.PermissionDenied
	}
	s := status.New(code, e.Message)
	if detailed, err := s.WithDetails(&pb.Refusal{Reason: string(e.Reason), Retry: e.Retry}); err == nil {
		return detailed
	}
	return s
}

// asRefusal turns a received status back into the refusal it carries, and
// returns any other error as it is.
func asRefusal(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, detail := range s.Details() {
		if r, ok := detail.(*pb.Refusal); ok {
			return &RefusedError{Reason: Reason(r.GetReason()), Retry: r.GetRetry(), Message: s.Message()}
		}
	}
	return err
}

// describe is an error's text for people: a gRPC status without its envelope.
func describe(err error) string {
	var refused *RefusedError
	if errors.As(err, &refused) {
		return refused.Error()
	}
	if s, ok := status.FromError(err); ok && s.Code() != codes.Unknown {
		return fmt.Sprintf("%s (%s)", s.Message(), s.Code())
	}
	return err.Error()
}
