// SPDX-License-Identifier: Apache-2.0

package chattemplate

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Limits of a template and of one rendering. The largest templates in use have
// some 10 kB; a rendering of a hundred messages takes about 10^4 operations.
const (
	// MaxSource is the most bytes of a template.
	MaxSource = 256 << 10
	// MaxOutput is the most bytes that a rendering may have.
	MaxOutput = 16 << 20
	// maxOperations bounds expressions and statements evaluated.
	maxOperations = 5_000_000
	// maxMade bounds the bytes of strings and lists made on the way.
	maxMade = 64 << 20
	// maxNesting bounds tags and parentheses inside each other, and values
	// inside values.
	maxNesting = 200
	// maxCalls bounds macros that call macros.
	maxCalls = 20
)

var (
	errOperations = fmt.Errorf("the chat template takes more than %d operations for these messages; send fewer or shorter ones", maxOperations)
	errMade       = fmt.Errorf("the chat template makes more than %d bytes on the way for these messages; send fewer or shorter ones", maxMade)
	errOutput     = fmt.Errorf("the prompt is longer than %d bytes; send fewer or shorter messages", MaxOutput)
	errBreak      = errors.New("break outside of a loop")
	errContinue   = errors.New("continue outside of a loop")
)

// RaisedError is what a template raises with raise_exception, as when the roles of
// the messages do not alternate. Its text is meant for the client.
type RaisedError struct{ Message string }

// Error returns the message.
func (e *RaisedError) Error() string { return e.Message }

// Template is a parsed chat template. It is immutable and safe for concurrent
// use.
type Template struct{ body []statement }

// Parse reads the source of a chat template. Its errors name the line.
func Parse(source string) (*Template, error) {
	if len(source) > MaxSource {
		return nil, fmt.Errorf("chat template: it has %d bytes; at most %d are read", len(source), MaxSource)
	}
	tokens, err := lex(source)
	if err != nil {
		return nil, fmt.Errorf("chat template: %w", err)
	}
	p := &parser{tokens: tokens}
	body, err := p.statements()
	if err != nil {
		return nil, fmt.Errorf("chat template: %w", err)
	}
	return &Template{body: body}, nil
}

// Render fills in a template's variables, whose values are those of Map.Set.
// now is the clock of strftime_now. The error is a *RaisedError when the template
// refuses the messages.
func (t *Template) Render(vars *Map, now time.Time) (string, error) {
	r := &run{now: now, out: &strings.Builder{}, scope: &scope{names: map[string]any{}}}
	for _, k := range vars.Keys() {
		r.scope.names[k], _ = vars.Get(k)
	}
	err := r.all(t.body)
	var raised *RaisedError
	switch {
	case errors.As(err, &raised):
		return "", raised
	case err != nil:
		return "", fmt.Errorf("chat template: %w", err)
	}
	return r.out.String(), nil
}

// scope holds the names of a template, a turn of a loop or a macro's call.
type scope struct {
	names  map[string]any
	parent *scope
}

// run is one rendering and what is left of its budget.
type run struct {
	now        time.Time
	out        *strings.Builder
	scope      *scope
	operations int
	bytes      int
	calls      int
}

type (
	statement  func(r *run) error
	expression func(r *run) (any, error)
)

// turnCost is what a turn of a loop counts for beside its body: it makes a
// scope.
const turnCost = 5

// operate counts one operation.
func (r *run) operate() error {
	if r.operations++; r.operations > maxOperations {
		return errOperations
	}
	return nil
}

// made counts n bytes made.
func (r *run) made(n int) error {
	if r.bytes += n; r.bytes > maxMade || n < 0 {
		return errMade
	}
	return nil
}

// nested checks how deep a walk into a value is.
func (r *run) nested(depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("a value is nested more than %d deep", maxNesting)
	}
	return r.operate()
}

func (r *run) write(s string) error {
	if r.out.Len()+len(s) > MaxOutput {
		return errOutput
	}
	if err := r.made(len(s)); err != nil {
		return err
	}
	r.out.WriteString(s)
	return nil
}

func (r *run) all(body []statement) error {
	for _, s := range body {
		if err := r.operate(); err != nil {
			return err
		}
		if err := s(r); err != nil {
			return err
		}
	}
	return nil
}

// lookup finds a name in the scopes and then among the functions.
func (r *run) lookup(name string) any {
	for s := r.scope; s != nil; s = s.parent {
		if v, ok := s.names[name]; ok {
			return v
		}
	}
	if f, ok := functions[name]; ok {
		return f
	}
	return undefined(name)
}

// inner runs body in a scope below parent.
func (r *run) inner(parent *scope, names map[string]any, body func() error) error {
	outer := r.scope
	r.scope = &scope{names: names, parent: parent}
	err := body()
	r.scope = outer
	return err
}

// capture returns what body writes.
func (r *run) capture(body func() error) (string, error) {
	outer := r.out
	r.out = &strings.Builder{}
	err := body()
	s := r.out.String()
	r.out = outer
	return s, err
}

// call calls a function of the template.
func (r *run) call(f any, what string, args []any, named *Map) (any, error) {
	fn, ok := f.(callable)
	if !ok {
		return nil, fmt.Errorf("%s is %s, which cannot be called", what, typeName(f))
	}
	if r.calls++; r.calls > maxCalls {
		return nil, fmt.Errorf("calls are nested more than %d deep", maxCalls)
	}
	v, err := fn(r, args, named)
	r.calls--
	return v, err
}
