// SPDX-License-Identifier: Apache-2.0

package chattemplate

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// parser turns tokens into closures, by recursive descent.
type parser struct {
	tokens []token
	at     int
	depth  int
	// loops counts the loops around the present tag, in the macro at hand.
	loops int
}

func (p *parser) peek() token { return p.tokens[p.at] }

func (p *parser) next() token {
	t := p.tokens[p.at]
	if t.kind != end {
		p.at++
	}
	return t
}

func (p *parser) errorf(format string, args ...any) error {
	return fmt.Errorf("line %d: %s", p.peek().line, fmt.Sprintf(format, args...))
}

// is says whether the next token is an operator or a word.
func (p *parser) is(value string) bool {
	t := p.peek()
	return (t.kind == operator || t.kind == name) && t.value == value
}

// take passes the next token if it is the one given.
func (p *parser) take(value string) bool {
	if p.is(value) {
		p.at++
		return true
	}
	return false
}

func (p *parser) expect(value string) error {
	if !p.take(value) {
		return p.errorf("expected %q, found %s", value, p.peek())
	}
	return nil
}

func (p *parser) expectKind(k kind, what string) (token, error) {
	if t := p.peek(); t.kind == k {
		p.at++
		return t, nil
	}
	return token{}, p.errorf("expected %s, found %s", what, p.peek())
}

// enter bounds the nesting; restore goes back to the depth before.
func (p *parser) enter() error {
	if p.depth++; p.depth > maxNesting {
		return p.errorf("tags or expressions are nested more than %d deep", maxNesting)
	}
	return nil
}

func (p *parser) restore(depth int) { p.depth = depth }

// located adds the line to what goes wrong when e is evaluated.
func located(line int, err error) error {
	var raised *RaisedError
	var known *locatedError
	limit := slices.ContainsFunc([]error{errOperations, errMade, errOutput, errBreak, errContinue}, func(e error) bool { return errors.Is(err, e) })
	if err == nil || limit || errors.As(err, &raised) || errors.As(err, &known) {
		return err
	}
	return &locatedError{line: line, err: err}
}

type locatedError struct {
	line int
	err  error
}

func (e *locatedError) Error() string { return fmt.Sprintf("line %d: %v", e.line, e.err) }
func (e *locatedError) Unwrap() error { return e.err }

// statements parses up to the end of the template or to a block tag that is
// one of ends, whose name is passed.
func (p *parser) statements(ends ...string) ([]statement, error) {
	defer p.restore(p.depth)
	if err := p.enter(); err != nil {
		return nil, err
	}
	var body []statement
	for {
		t := p.next()
		switch t.kind {
		case end:
			if len(ends) > 0 {
				return nil, p.errorf("the template ends without {%% %s %%}", ends[len(ends)-1])
			}
			return body, nil
		case text:
			body = append(body, func(r *run) error { return r.write(t.value) })
		case outputBegin:
			s, err := p.output(t.line)
			if err != nil {
				return nil, err
			}
			body = append(body, s)
		default:
			tag, err := p.expectKind(name, "the name of a tag")
			if err != nil || slices.Contains(ends, tag.value) {
				return body, err
			}
			s, err := p.tag(tag)
			if err != nil {
				return nil, err
			}
			body = append(body, s)
		}
	}
}

func (p *parser) output(line int) (statement, error) {
	e, err := p.tuple()
	if err != nil {
		return nil, err
	}
	if _, err := p.expectKind(outputEnd, "}}"); err != nil {
		return nil, err
	}
	return func(r *run) error {
		v, err := e(r)
		if err != nil {
			return located(line, err)
		}
		s, err := r.str(v)
		if err != nil {
			return located(line, err)
		}
		return r.write(s)
	}, nil
}

func (p *parser) endTag() error {
	_, err := p.expectKind(blockEnd, "%}")
	return err
}

// body parses statements up to {% end %}, whose tag it passes.
func (p *parser) body(endName string) ([]statement, error) {
	if err := p.endTag(); err != nil {
		return nil, err
	}
	body, err := p.statements(endName)
	if err != nil {
		return nil, err
	}
	return body, p.endTag()
}

// last is the name of the tag that ended statements.
func (p *parser) last() string { return p.tokens[p.at-1].value }

func (p *parser) tag(tag token) (statement, error) {
	var s statement
	var err error
	switch tag.value {
	case "if":
		s, err = p.ifTag()
	case "for":
		s, err = p.forTag()
	case "set":
		s, err = p.setTag()
	case "macro":
		s, err = p.macroTag()
	case "filter":
		s, err = p.filterTag()
	case "generation":
		// Marks what a model is trained on; it changes no text.
		var body []statement
		body, err = p.body("endgeneration")
		s = func(r *run) error { return r.all(body) }
	case "break", "continue":
		if p.loops == 0 {
			return nil, p.errorf("{%% %s %%} outside of a loop", tag.value)
		}
		s = func(*run) error { return map[string]error{"break": errBreak, "continue": errContinue}[tag.value] }
		err = p.endTag()
	default:
		return nil, p.errorf("the tag {%% %.40s %%} is not supported in chat templates", tag.value)
	}
	return func(r *run) error { return located(tag.line, s(r)) }, err
}

func (p *parser) ifTag() (statement, error) {
	type branch struct {
		condition expression
		body      []statement
	}
	var branches []branch
	for more := true; more; {
		condition := func(*run) (any, error) { return true, nil }
		more = p.last() != "else"
		if more {
			var err error
			if condition, err = p.expression(); err != nil {
				return nil, err
			}
		}
		if err := p.endTag(); err != nil {
			return nil, err
		}
		ends := []string{"elif", "else", "endif"}
		if !more {
			ends = ends[2:]
		}
		body, err := p.statements(ends...)
		if err != nil {
			return nil, err
		}
		branches = append(branches, branch{condition, body})
		more = p.last() != "endif"
	}
	return func(r *run) error {
		for _, b := range branches {
			v, err := b.condition(r)
			if err != nil {
				return err
			}
			if truth(v) {
				return r.all(b.body)
			}
		}
		return nil
	}, p.endTag()
}

// names parses "a" or "a, b", as the target of for and set.
func (p *parser) names() ([]string, error) {
	paren := p.take("(")
	var out []string
	for {
		t, err := p.expectKind(name, "a name")
		if err != nil {
			return nil, err
		}
		out = append(out, t.value)
		if !p.take(",") {
			break
		}
	}
	if paren {
		return out, p.expect(")")
	}
	return out, nil
}

// unpack assigns a value to names.
func (r *run) unpack(into map[string]any, names []string, v any) error {
	if len(names) == 1 {
		into[names[0]] = v
		return nil
	}
	list, err := r.items(v)
	if err != nil {
		return err
	}
	if len(list) != len(names) {
		return fmt.Errorf("%d values for the names %s", len(list), strings.Join(names, ", "))
	}
	for i, n := range names {
		into[n] = list[i]
	}
	return nil
}

func (p *parser) setTag() (statement, error) {
	first := p.peek()
	names, err := p.names()
	if err != nil {
		return nil, err
	}
	field := ""
	if len(names) == 1 && p.take(".") {
		t, err := p.expectKind(name, "a name")
		if err != nil {
			return nil, err
		}
		field = t.value
	}
	assign := func(r *run, v any) error {
		if field == "" {
			return r.unpack(r.scope.names, names, v)
		}
		ns, ok := r.lookup(first.value).(*namespace)
		if !ok {
			return fmt.Errorf("%s is no namespace, so %s.%s cannot be set", first.value, first.value, field)
		}
		ns.vars.Set(field, v)
		return nil
	}
	if !p.take("=") {
		return p.captured("endset", assign)
	}
	e, err := p.tuple()
	if err != nil {
		return nil, err
	}
	return func(r *run) error {
		v, err := e(r)
		if err != nil {
			return err
		}
		return assign(r, v)
	}, p.endTag()
}
