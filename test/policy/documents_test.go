// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

var (
	fence    = regexp.MustCompile("(?ms)^```.*?^```$")
	span     = regexp.MustCompile("`[^`\n]*`")
	link     = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ +(.+?) *$`)
	linkText = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	// A block of commands on the quickstart page, what hack/quickstart.sh looks for
	// in its output, and the output as the page has it.
	step = regexp.MustCompile("(?ms)^```sh\n(.*?)^```\n(?:\n<!-- prints\n(.*?)^-->\n\n```\n(.*?)^```$)?")
)

// anchors are the fragments by which the headings of a page are reached, formed as
// GitHub forms them.
func anchors(page string) map[string]bool {
	out := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		text := strings.ToLower(linkText.ReplaceAllString(m[1], "$1"))
		anchor := strings.Map(func(r rune) rune {
			switch {
			case r == ' ' || r == '-':
				return '-'
			case r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r):
				return r
			}
			return -1
		}, text)
		for name, n := anchor, 1; ; name, n = fmt.Sprintf("%s-%d", anchor, n), n+1 {
			if !out[name] {
				out[name] = true
				break
			}
		}
	}
	return out
}

// brokenLink says what is wrong with a link of the page at path, if anything is.
func brokenLink(path, target string) error {
	u, err := url.Parse(target)
	if err != nil || u.IsAbs() {
		return err
	}
	file := path
	if u.Path != "" {
		file = filepath.Join(filepath.Dir(path), u.Path)
	}
	info, err := os.Stat(file)
	if err != nil || info.IsDir() || u.Fragment == "" || filepath.Ext(file) != ".md" {
		return err
	}
	page, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !anchors(string(page))[u.Fragment] {
		return fmt.Errorf("%s has no heading #%s", file, u.Fragment)
	}
	return nil
}

// TestLinksResolve: every relative link of every page leads to a file of the
// repository, and to a heading of it where it names one.
func TestLinksResolve(t *testing.T) {
	links := 0
	err := filepath.WalkDir(repository, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "build"):
			return fs.SkipDir
		case entry.IsDir() || filepath.Ext(path) != ".md":
			return nil
		}
		page, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		prose := span.ReplaceAllString(fence.ReplaceAllString(string(page), ""), "")
		for _, m := range link.FindAllStringSubmatch(prose, -1) {
			links++
			if err := brokenLink(path, m[1]); err != nil {
				t.Errorf("%s: the link %s leads nowhere: %v", path, m[1], err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if links < 100 {
		t.Errorf("only %d links were found; is the expression for them still right?", links)
	}
}

func TestAnchorsAreThoseOfGitHub(t *testing.T) {
	page := "# What runs, and `why`\n```\n# no heading\n```\n## A [link](x.md) of r1/r2\n## Twice\n## Twice\n"
	found := anchors(page)
	for _, want := range []string{"what-runs-and-why", "a-link-of-r1r2", "twice", "twice-1"} {
		if !found[want] {
			t.Errorf("no %q among %v", want, found)
		}
	}
	if len(found) != 4 {
		t.Errorf("%d anchors, want 4: %v", len(found), found)
	}
}

// TestQuickstartShowsWhatIsChecked: the outputs on the page have every line that
// hack/quickstart.sh requires of the real ones, so that the two cannot part.
func TestQuickstartShowsWhatIsChecked(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(repository, "docs/quickstart.md"))
	if err != nil {
		t.Fatal(err)
	}
	steps := step.FindAllStringSubmatch(string(page), -1)
	for _, m := range steps {
		commands, wanted, output := m[1], m[2], m[3]
		if strings.TrimSpace(wanted) == "" {
			t.Errorf("nothing is expected of these commands:\n%s", commands)
			continue
		}
		for _, line := range strings.Split(strings.TrimSpace(wanted), "\n") {
			expression, err := regexp.Compile("(?m)" + line)
			if err != nil {
				t.Errorf("%q: %v", line, err)
				continue
			}
			if !expression.MatchString(output) {
				t.Errorf("no line of the output on the page is like %q:\n%s", line, output)
			}
		}
	}
	if len(steps) < 10 {
		t.Errorf("only %d blocks of commands were found; has the form of the page changed?", len(steps))
	}
}
