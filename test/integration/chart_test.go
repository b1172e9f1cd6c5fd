// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestChartHasTheGeneratedObjects guards against a chart that installs other
// CRDs or rights than the ones that were generated and tested here.
func TestChartHasTheGeneratedObjects(t *testing.T) {
	read := func(path string) string {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	const files = "../../charts/findep-operator/files/"
	bases, err := filepath.Glob("../../config/crd/bases/*.yaml")
	if err != nil || len(bases) == 0 {
		t.Fatalf("no CRDs: %v", err)
	}
	for _, base := range bases {
		if read(base) != read(files+"crds/"+filepath.Base(base)) {
			t.Errorf("the chart's %s is not current; run hack/sync-chart.sh", filepath.Base(base))
		}
	}
	if copied, err := filepath.Glob(files + "crds/*.yaml"); err != nil || len(copied) != len(bases) {
		t.Errorf("the chart has %d CRDs, config %d; run hack/sync-chart.sh", len(copied), len(bases))
	}
	if read("../../config/webhook/manifests.yaml") != read(files+"webhooks.yaml") {
		t.Error("the chart's webhooks.yaml is not current; run hack/sync-chart.sh")
	}
	roles := read(files + "role.yaml")
	for _, file := range []string{"role", "leader_election_role", "webhook_role", "editor_role", "viewer_role"} {
		if !strings.Contains(roles, strings.TrimSpace(read("../../config/rbac/"+file+".yaml"))) {
			t.Errorf("the chart's role.yaml lacks config/rbac/%s.yaml; run hack/sync-chart.sh", file)
		}
	}
}
