// SPDX-License-Identifier: Apache-2.0

// Package dockerfile holds the rules that the project's Dockerfile keeps, so
// that they can be tested where no engine is there to build it: every image is
// minimal, labelled and not root's, everything that is copied exists, and a
// stage runs nothing but targets of make, which are tested elsewhere.
package dockerfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// labels are what every image says of itself.
var labels = []string{"title", "description", "source", "licenses", "version", "revision"}

// checker collects what is wrong, each with its line.
type checker struct {
	tree    fs.FS
	targets map[string]bool
	problem []error
}

// Check parses a Dockerfile and returns its problems joined, nil if it has none.
// Tree is the build's context, images are the stages that become images.
func Check(text []byte, tree fs.FS, images []string) error {
	c := &checker{tree: tree}
	warn := func(rule, _, _, message string, at []parser.Range) { c.add(at, "%s (%s)", message, rule) }
	lint := linter.New(&linter.Config{Warn: warn})
	ast, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return err
	}
	stages, _, err := instructions.Parse(ast.AST, lint)
	if err != nil {
		return err
	}
	if c.targets, err = makeTargets(tree); err != nil {
		return err
	}
	known := map[string]bool{}
	for i := range stages {
		c.stage(&stages[i], known)
		known[stages[i].Name] = true
	}
	for _, image := range images {
		at := slices.IndexFunc(stages, func(s instructions.Stage) bool { return s.Name == image })
		if at < 0 {
			c.add(nil, "there is no stage %s", image)
			continue
		}
		c.image(&stages[at])
	}
	return errors.Join(c.problem...)
}

func (c *checker) add(at []parser.Range, format string, args ...any) {
	where := ""
	if len(at) > 0 {
		where = fmt.Sprintf("line %d: ", at[0].Start.Line)
	}
	c.problem = append(c.problem, fmt.Errorf("%s%s", where, fmt.Sprintf(format, args...)))
}

// stage checks what holds for every stage: sources exist, commands are make's.
func (c *checker) stage(s *instructions.Stage, known map[string]bool) {
	for _, command := range s.Commands {
		switch command := command.(type) {
		case *instructions.AddCommand:
			c.add(command.Location(), "ADD fetches and unpacks; use COPY")
		case *instructions.CopyCommand:
			c.copied(command, known)
		case *instructions.RunCommand:
			for line := range strings.SplitSeq(strings.Join(command.CmdLine, " "), "&&") {
				c.run(command.Location(), strings.Fields(line))
			}
		}
	}
}

func (c *checker) copied(command *instructions.CopyCommand, known map[string]bool) {
	if command.From != "" {
		if !known[command.From] {
			c.add(command.Location(), "COPY --from=%s: no stage above has that name", command.From)
		}
		return
	}
	for _, source := range command.SourcePaths {
		if _, err := fs.Stat(c.tree, source); err != nil {
			c.add(command.Location(), "COPY: %v", err)
		}
	}
}

// run admits `go mod download` and `make [-f FILE] TARGET... NAME=VALUE...`.
func (c *checker) run(at []parser.Range, words []string) {
	if strings.Join(words, " ") == "go mod download" {
		return
	}
	if len(words) == 0 || words[0] != "make" {
		c.add(at, "RUN %s: let a target of make do it, which is tested", strings.Join(words, " "))
		return
	}
	for i := 1; i < len(words); i++ {
		switch word := words[i]; {
		case word == "-f":
			i++
		case strings.Contains(word, "="):
			// A value in quotes ends with the word that has the second quote.
			for strings.Count(word, `"`) == 1 && i+1 < len(words) {
				i++
				word += words[i]
			}
		case !c.targets[word]:
			c.add(at, "RUN make %s: there is no such target", word)
		}
	}
}

// image checks a stage that is shipped.
func (c *checker) image(s *instructions.Stage) {
	user, entrypoint, said := "", false, map[string]bool{}
	for _, command := range s.Commands {
		switch command := command.(type) {
		case *instructions.RunCommand:
			c.add(command.Location(), "image %s: RUN leaves a layer; build in another stage and COPY", s.Name)
		case *instructions.CopyCommand:
			if command.From == "" {
				c.add(command.Location(), "image %s: COPY takes the source along; copy from a stage", s.Name)
			}
		case *instructions.UserCommand:
			user = command.User
		case *instructions.EntrypointCommand:
			entrypoint = !command.PrependShell
		case *instructions.LabelCommand:
			for _, l := range command.Labels {
				said[strings.TrimPrefix(strings.Trim(l.Key, `"`), "org.opencontainers.image.")] = true
			}
		}
	}
	if id, _, _ := strings.Cut(user, ":"); !positive(id) {
		c.add(s.Location, "image %s: USER is %q; it needs a number above 0, which Kubernetes can check", s.Name, user)
	}
	if !entrypoint {
		c.add(s.Location, "image %s: it needs an ENTRYPOINT without a shell", s.Name)
	}
	for _, l := range labels {
		if !said[l] {
			c.add(s.Location, "image %s: no label org.opencontainers.image.%s", s.Name, l)
		}
	}
}

func positive(number string) bool {
	n, err := strconv.Atoi(number)
	return err == nil && n > 0
}

var target = regexp.MustCompile(`(?m)^([a-zA-Z0-9_-]+):(?:[^=]|$)`)

// makeTargets lists what the Makefiles can make.
func makeTargets(tree fs.FS) (map[string]bool, error) {
	files, err := fs.Glob(tree, "hack/make/*.mk")
	if err != nil {
		return nil, err
	}
	targets := map[string]bool{}
	for _, file := range append(files, "Makefile") {
		b, err := fs.ReadFile(tree, file)
		if err != nil {
			return nil, err
		}
		for _, m := range target.FindAllSubmatch(b, -1) {
			targets[string(m[1])] = true
		}
	}
	return targets, nil
}
