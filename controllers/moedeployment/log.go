// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// Keys of the operator's log lines. They are part of its interface: queries are
// written against them, docs/observability.md lists them, and a test compares.
const (
	keyGeneration  = "generation"
	keyRevision    = "revision"
	keyReady       = "ready"
	keyAvailable   = "available"
	keyProgressing = "progressing"
	keyFailures    = "failures"
)

// logStatus writes one line for each status that was written: what the
// deployment is at, and what failed in this pass.
func (s *scope) logStatus(ctx context.Context) {
	st := &s.deployment.Status
	pairs := []any{keyGeneration, s.deployment.Generation, keyReady, st.Ready}
	if s.resolved != nil {
		pairs = append(pairs, keyRevision, s.resolved.Revision)
	}
	for _, c := range []struct{ key, condition string }{
		{keyAvailable, v1alpha1.ConditionAvailable}, {keyProgressing, v1alpha1.ConditionProgressing},
	} {
		if found := meta.FindStatusCondition(st.Conditions, c.condition); found != nil {
			pairs = append(pairs, c.key, string(found.Status)+"/"+found.Reason)
		}
	}
	if len(s.failures) > 0 {
		pairs = append(pairs, keyFailures, s.failures)
	}
	log.FromContext(ctx).Info("Status written", pairs...)
}
