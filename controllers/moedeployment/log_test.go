// SPDX-License-Identifier: Apache-2.0

package moedeployment

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"

	"github.com/findep/findep-operator/api/v1alpha1"
	"github.com/findep/findep-operator/controllers/resolve"
)

// TestLogKeysAreStable: queries are written against the keys, so a line has those
// that are documented, and no others.
func TestLogKeysAreStable(t *testing.T) {
	doc, err := os.ReadFile("../../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	var line string
	logger := funcr.NewJSON(func(obj string) { line = obj }, funcr.Options{})
	d := &v1alpha1.MoEDeployment{}
	d.Status.Ready = "1/2"
	s := &scope{deployment: d, resolved: &resolve.Result{Revision: "abc"}, failures: []string{"services: no"}}
	s.setCondition(&d.Status, v1alpha1.ConditionAvailable, "True", v1alpha1.ReasonServing, "m")
	s.setCondition(&d.Status, v1alpha1.ConditionProgressing, "False", v1alpha1.ReasonComplete, "m")
	s.logStatus(logr.NewContext(context.Background(), logger))
	var fields map[string]any
	if err := json.Unmarshal([]byte(line), &fields); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	delete(fields, "logger")
	delete(fields, "level")
	delete(fields, "msg")
	want := []string{keyGeneration, keyRevision, keyReady, keyAvailable, keyProgressing, keyFailures}
	for _, key := range want {
		if _, ok := fields[key]; !ok {
			t.Errorf("the line %s lacks the key %q", line, key)
		}
		if !strings.Contains(string(doc), "| `"+key+"` |") {
			t.Errorf("docs/observability.md does not list the key %q", key)
		}
	}
	if len(fields) != len(want) {
		t.Errorf("the line %s has keys beyond %v", line, want)
	}
	if fields[keyAvailable] != "True/Serving" {
		t.Errorf("%s is %v, want True/Serving", keyAvailable, fields[keyAvailable])
	}
}
