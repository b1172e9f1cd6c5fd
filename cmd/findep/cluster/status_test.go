// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// TestHealthSaysEachThingOnce: three conditions and the instance itself carry the
// scheduler's words.
func TestHealthSaysEachThingOnce(t *testing.T) {
	const words = "The scheduler says: 0/2 nodes are available."
	var d v1alpha1.MoEDeployment
	d.Status.Instances = []v1alpha1.InstanceStatus{{Message: words}, {Index: 1, Message: "Its pods are being made."}}
	for _, kind := range []string{v1alpha1.ConditionScheduled, v1alpha1.ConditionAvailable} {
		d.Status.Conditions = append(d.Status.Conditions, metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Message: "Instance 0: " + words})
	}
	var out strings.Builder
	writeHealth(&out, &d)
	if n := strings.Count(out.String(), words); n != 1 {
		t.Errorf("it is said %d times:\n%s", n, out.String())
	}
	for _, want := range []string{"Scheduled is False (): Instance 0: " + words, "Available is False (): Instance 0: see Scheduled", "Its pods are being made."} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing:\n%s", want, out.String())
		}
	}
}
