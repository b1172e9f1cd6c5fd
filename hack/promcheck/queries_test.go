// SPDX-License-Identifier: Apache-2.0

// Package promcheck reads what the chart gives to Prometheus and Grafana with
// Prometheus's own parser: an alert that does not parse would be refused by the
// Prometheus operator, together with its whole group, only in a cluster. It is a
// module of its own because the parser's would raise dozens of the operator's
// dependencies.
package promcheck

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

const files = "../../charts/findep-operator/files/"

var (
	promql = parser.NewParser(parser.Options{})
	// Variables of Grafana stand for text within a string, or for a duration.
	interval = regexp.MustCompile(`\$__(?:rate_)?interval`)
	variable = regexp.MustCompile(`\$\{?\w+\}?`)
	// How a variable of a dashboard asks for the values of a label.
	labelValues = regexp.MustCompile(`^label_values\((.+), *\w+\)$`)
)

// TestAlerts parses the rules, their expressions, durations and templates.
func TestAlerts(t *testing.T) {
	groups, problems := rulefmt.ParseFile(files+"rules.yaml", false, model.UTF8Validation, promql, slog.Default())
	for _, problem := range problems {
		t.Error(problem)
	}
	if groups == nil || len(groups.Groups) == 0 || len(groups.Groups[0].Rules) < 5 {
		t.Errorf("want a group of alerts, got %+v", groups)
	}
}

// dashboard is the part of a dashboard of Grafana that has queries.
type dashboard struct {
	Panels []struct {
		Title   string
		Targets []struct{ Expr string }
	}
	Templating struct {
		List []struct{ Name, Type, Query string }
	}
}

// queries are the dashboard's expressions, by the place where they stand.
func (d dashboard) queries() map[string]string {
	out := map[string]string{}
	for _, p := range d.Panels {
		for i, target := range p.Targets {
			out[fmt.Sprintf("query %d of panel %q", i, p.Title)] = target.Expr
		}
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			out[fmt.Sprintf("variable %s", v.Name)] = labelValues.ReplaceAllString(v.Query, "$1")
		}
	}
	return out
}

// TestDashboards parses every query of the dashboards.
func TestDashboards(t *testing.T) {
	paths, err := filepath.Glob(files + "dashboards/*.json")
	if err != nil || len(paths) < 2 {
		t.Fatalf("got %v, %v; want two dashboards", paths, err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var d dashboard
			if err := json.Unmarshal(text, &d); err != nil {
				t.Fatal(err)
			}
			queries := d.queries()
			if len(queries) < 5 {
				t.Errorf("only %d queries were found; has the form of dashboards changed?", len(queries))
			}
			for place, query := range queries {
				query = variable.ReplaceAllString(interval.ReplaceAllString(query, "5m"), "x")
				if _, err := promql.ParseExpr(query); err != nil {
					t.Errorf("%s: %v\n%s", place, err, query)
				}
			}
		})
	}
}
