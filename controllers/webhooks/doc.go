// SPDX-License-Identifier: Apache-2.0

// Package webhooks checks MoEDeployments and GPUProfiles at admission for what
// the rules in their schemas cannot say: whether the model fits into the memory
// of the GPUs, what contradicts the model or the cluster, and what a change
// costs.
//
// Admission is a courtesy, not a safeguard: the reconciler comes to the same
// conclusions from the same facts and says so in status, so that nothing depends
// on the webhook being reachable. For the same reason nothing is filled in here.
// A default that depends on the cluster or on the version of the operator is
// applied when the object is resolved, where it can improve, and not frozen into
// what the user wrote, where tools that compare it with Git would find it.
package webhooks
