// SPDX-License-Identifier: Apache-2.0

package chattemplate

import (
	"errors"
	"fmt"
	"slices"
)

// blockName holds the text of a captured block while its filters run; no name
// in a template has a space.
const blockName = " block"

// captured parses {% set x | filter %}...{% endset %} and
// {% filter f %}...{% endfilter %} after their first words.
func (p *parser) captured(endName string, use func(*run, any) error) (statement, error) {
	filtered, err := p.filters(func(r *run) (any, error) { return r.lookup(blockName), nil })
	if err != nil {
		return nil, err
	}
	body, err := p.body(endName)
	return func(r *run) error {
		s, err := r.capture(func() error { return r.inner(r.scope, map[string]any{}, func() error { return r.all(body) }) })
		if err != nil {
			return err
		}
		var v any
		err = r.inner(r.scope, map[string]any{blockName: s}, func() error {
			v, err = filtered(r)
			return err
		})
		if err != nil {
			return err
		}
		return use(r, v)
	}, err
}

func (p *parser) filterTag() (statement, error) {
	// The first filter comes without its bar.
	p.at--
	p.tokens[p.at] = token{kind: operator, value: "|", line: p.tokens[p.at].line}
	return p.captured("endfilter", func(r *run, v any) error {
		s, err := r.str(v)
		if err != nil {
			return err
		}
		return r.write(s)
	})
}

// loop is a for tag.
type loop struct {
	names       []string
	list        expression
	condition   expression
	body, empty []statement
}

func (p *parser) forTag() (statement, error) {
	l := &loop{}
	var err error
	if l.names, err = p.names(); err != nil {
		return nil, err
	}
	if err := p.expect("in"); err != nil {
		return nil, err
	}
	// A condition after the list is no conditional expression.
	if l.list, err = p.or(); err != nil {
		return nil, err
	}
	if p.take("if") {
		if l.condition, err = p.expression(); err != nil {
			return nil, err
		}
	}
	if p.is("recursive") {
		return nil, p.errorf("recursive loops are not supported in chat templates")
	}
	if err := p.endTag(); err != nil {
		return nil, err
	}
	p.loops++
	l.body, err = p.statements("else", "endfor")
	p.loops--
	if err != nil {
		return nil, err
	}
	if p.last() == "else" {
		if err := p.endTag(); err != nil {
			return nil, err
		}
		if l.empty, err = p.statements("endfor"); err != nil {
			return nil, err
		}
	}
	return l.run, p.endTag()
}

func (l *loop) run(r *run) error {
	v, err := l.list(r)
	if err != nil {
		return err
	}
	list, err := r.items(v)
	if err != nil {
		return err
	}
	if l.condition != nil {
		if list, err = l.selected(r, list); err != nil {
			return err
		}
	}
	outer := r.scope
	for i := range list {
		r.operations += turnCost
		names := map[string]any{"loop": &loopState{list: list, at: i}}
		if err := r.unpack(names, l.names, list[i]); err != nil {
			return err
		}
		err := r.inner(outer, names, func() error { return r.all(l.body) })
		if errors.Is(err, errBreak) {
			return nil
		}
		if err != nil && !errors.Is(err, errContinue) {
			return err
		}
		if err := r.operate(); err != nil {
			return err
		}
	}
	if len(list) == 0 {
		return r.inner(outer, map[string]any{}, func() error { return r.all(l.empty) })
	}
	return nil
}

func (l *loop) selected(r *run, list []any) ([]any, error) {
	var out []any
	for _, item := range list {
		names := map[string]any{}
		if err := r.unpack(names, l.names, item); err != nil {
			return nil, err
		}
		var keep any
		err := r.inner(r.scope, names, func() (err error) {
			keep, err = l.condition(r)
			return err
		})
		if err != nil {
			return nil, err
		}
		if truth(keep) {
			out = append(out, item)
		}
	}
	return out, r.made(16 * len(out))
}

// loopState is the variable loop.
type loopState struct {
	list []any
	at   int
}

func (s *loopState) attribute(name string) any {
	n := len(s.list)
	switch name {
	case "index":
		return int64(s.at + 1)
	case "index0":
		return int64(s.at)
	case "revindex":
		return int64(n - s.at)
	case "revindex0":
		return int64(n - s.at - 1)
	case "first":
		return s.at == 0
	case "last":
		return s.at == n-1
	case "length":
		return int64(n)
	case "previtem":
		if s.at > 0 {
			return s.list[s.at-1]
		}
	case "nextitem":
		if s.at+1 < n {
			return s.list[s.at+1]
		}
	case "cycle":
		return callable(func(_ *run, args []any, _ *Map) (any, error) {
			if len(args) == 0 {
				return nil, fmt.Errorf("loop.cycle needs values")
			}
			return args[s.at%len(args)], nil
		})
	}
	return undefined("loop." + name)
}

// macro is a macro tag.
type macro struct {
	name       string
	parameters []string
	// defaults are those of the last parameters.
	defaults []expression
	body     []statement
}

func (p *parser) macroTag() (statement, error) {
	t, err := p.expectKind(name, "the name of a macro")
	if err != nil {
		return nil, err
	}
	m := &macro{name: t.value}
	if err := p.parameters(m); err != nil {
		return nil, err
	}
	loops := p.loops
	p.loops = 0
	m.body, err = p.body("endmacro")
	p.loops = loops
	return func(r *run) error {
		defined := r.scope
		r.scope.names[m.name] = callable(func(r *run, args []any, named *Map) (any, error) {
			return m.call(r, defined, args, named)
		})
		return nil
	}, err
}

func (p *parser) parameters(m *macro) error {
	if err := p.expect("("); err != nil {
		return err
	}
	for !p.take(")") {
		if len(m.parameters) > 0 {
			if err := p.expect(","); err != nil {
				return err
			}
		}
		t, err := p.expectKind(name, "the name of a parameter")
		if err != nil {
			return err
		}
		m.parameters = append(m.parameters, t.value)
		switch {
		case p.take("="):
			e, err := p.expression()
			if err != nil {
				return err
			}
			m.defaults = append(m.defaults, e)
		case len(m.defaults) > 0:
			return p.errorf("the parameter %s without a default follows one with a default", t.value)
		}
	}
	return nil
}

func (m *macro) call(r *run, defined *scope, args []any, named *Map) (any, error) {
	if len(args) > len(m.parameters) {
		return nil, fmt.Errorf("macro %s takes %d arguments, not %d", m.name, len(m.parameters), len(args))
	}
	names := map[string]any{}
	for i, a := range args {
		names[m.parameters[i]] = a
	}
	for _, k := range named.Keys() {
		if _, twice := names[k]; twice {
			return nil, fmt.Errorf("macro %s gets %s twice", m.name, k)
		}
		names[k], _ = named.Get(k)
	}
	var out string
	err := r.inner(defined, names, func() error {
		if err := m.fill(r, names); err != nil {
			return err
		}
		var err error
		out, err = r.capture(func() error { return r.all(m.body) })
		return err
	})
	return out, err
}

// fill sets the parameters that no argument was given for.
func (m *macro) fill(r *run, names map[string]any) error {
	for i, parameter := range m.parameters {
		if _, given := names[parameter]; given {
			continue
		}
		names[parameter] = undefined(parameter)
		if d := i - (len(m.parameters) - len(m.defaults)); d >= 0 {
			v, err := m.defaults[d](r)
			if err != nil {
				return err
			}
			names[parameter] = v
		}
	}
	for k := range names {
		if !slices.Contains(m.parameters, k) {
			return fmt.Errorf("macro %s has no parameter %s", m.name, k)
		}
	}
	return nil
}
