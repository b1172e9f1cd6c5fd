// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const repository = "../.."

var (
	testFunction = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w*)\(`)
	specText     = regexp.MustCompile(`\b(?:It|Entry|Describe|DescribeTable|Context|When)\("((?:[^"\\]|\\.)*)"`)
	code         = regexp.MustCompile("`([^`]+)`")
	quotation    = regexp.MustCompile(`"([^"]+)"`)
	testName     = regexp.MustCompile(`^(?:Test|Fuzz|Benchmark)[A-Z]\w*$`)
	pathName     = regexp.MustCompile(`^[\w.-]+(?:/[\w.-]+)+$`)
)

// evidence is what the tests of the repository are called.
type evidence struct {
	functions map[string]bool
	specs     []string
}

func collect(t *testing.T) evidence {
	t.Helper()
	found := evidence{functions: map[string]bool{}}
	err := filepath.WalkDir(repository, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "build"):
			return fs.SkipDir
		case entry.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range testFunction.FindAllSubmatch(source, -1) {
			found.functions[string(m[1])] = true
		}
		for _, m := range specText.FindAllSubmatch(source, -1) {
			found.specs = append(found.specs, string(m[1]))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// hasSpec says that a spec's text is, or begins with, a quotation.
func (e evidence) hasSpec(quoted string) bool {
	for _, text := range e.specs {
		if strings.HasPrefix(text, quoted) {
			return true
		}
	}
	return false
}

// missing lists what a table's last cell refers to and the repository lacks.
func (e evidence) missing(cell string) []string {
	var list []string
	for _, m := range code.FindAllStringSubmatch(cell, -1) {
		switch name := m[1]; {
		case testName.MatchString(name):
			if !e.functions[name] {
				list = append(list, "no test is called "+name)
			}
		case pathName.MatchString(name):
			if _, err := os.Stat(filepath.Join(repository, name)); err != nil {
				list = append(list, err.Error())
			}
		}
	}
	for _, m := range quotation.FindAllStringSubmatch(cell, -1) {
		if !e.hasSpec(m[1]) {
			list = append(list, "no spec begins with "+m[0])
		}
	}
	return list
}

// TestComparisonIsShown: docs/comparison.md may say of itself only what a test
// shows. Every test that it cites exists, and a row that cites none says no.
func TestComparisonIsShown(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(repository, "docs/comparison.md"))
	if err != nil {
		t.Fatal(err)
	}
	known := collect(t)
	rows := 0
	for number, line := range strings.Split(string(page), "\n") {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || len(cells) < 3 {
			for _, m := range code.FindAllStringSubmatch(line, -1) {
				if testName.MatchString(m[1]) && !known.functions[m[1]] {
					t.Errorf("line %d: no test is called %s", number+1, m[1])
				}
			}
			continue
		}
		rows++
		here, shown := cells[len(cells)-2], cells[len(cells)-1]
		for _, problem := range known.missing(shown) {
			t.Errorf("line %d: %s", number+1, problem)
		}
		if strings.TrimSpace(shown) == "" && !strings.Contains(here, "*no*") && !strings.Contains(here, "*not yet*") {
			t.Errorf("line %d claims without a test: %s", number+1, line)
		}
	}
	if rows < 100 {
		t.Errorf("only %d rows were read; has the form of the tables changed?", rows)
	}
}
