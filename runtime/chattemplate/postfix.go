// SPDX-License-Identifier: Apache-2.0

package chattemplate

import (
	"fmt"
	"slices"
)

// postfix parses attributes, subscripts, slices and calls.
func (p *parser) postfix(e expression) (expression, error) {
	defer p.restore(p.depth)
	what := p.tokens[p.at-1].value
	for {
		// Chains nest when they are evaluated.
		if err := p.enter(); err != nil {
			return nil, err
		}
		line := p.peek().line
		var err error
		switch {
		case p.take("."):
			what, e, err = p.dot(e)
		case p.take("["):
			e, err = p.subscript(e)
		case p.take("("):
			e, err = p.callOf(e, what)
		default:
			return e, nil
		}
		if err != nil {
			return nil, err
		}
		inner := e
		e = func(r *run) (any, error) {
			if err := r.operate(); err != nil {
				return nil, err
			}
			v, err := inner(r)
			return v, located(line, err)
		}
	}
}

func (p *parser) dot(e expression) (string, expression, error) {
	t := p.next()
	if t.kind == integer {
		return t.value, nil, p.errorf("write [%s] instead of .%s", t.value, t.value)
	}
	if t.kind != name {
		return "", nil, p.errorf("expected a name after '.', found %s", t)
	}
	return t.value, func(r *run) (any, error) {
		v, err := e(r)
		if err != nil {
			return nil, err
		}
		return r.attribute(v, t.value)
	}, nil
}

// attribute is v.name: a method, or an entry of a mapping.
func (r *run) attribute(v any, name string) (any, error) {
	switch v := v.(type) {
	case undefined:
		return nil, fmt.Errorf("%q is undefined, so it has no %s", string(v), name)
	case *loopState:
		return v.attribute(name), nil
	case *namespace:
		if x, ok := v.vars.Get(name); ok {
			return x, nil
		}
	case *Map:
		if m, ok := mapMethods[name]; ok {
			return bind(v, m), nil
		}
		if x, ok := v.Get(name); ok {
			return x, nil
		}
	case string:
		if m, ok := stringMethods[name]; ok {
			return bind(v, m), nil
		}
	}
	return undefined(name), nil
}

func bind[T any](v T, method func(r *run, v T, a arguments) (any, error)) callable {
	return func(r *run, args []any, named *Map) (any, error) { return method(r, v, arguments{args, named}) }
}

func (p *parser) subscript(e expression) (expression, error) {
	var bounds [3]expression
	slice, n := false, 0
	for !p.take("]") {
		if p.take(":") {
			if n++; n > 2 {
				return nil, p.errorf("a slice has at most three parts")
			}
			slice = true
			continue
		}
		if bounds[n] != nil {
			return nil, p.errorf("expected ']', found %s", p.peek())
		}
		var err error
		if bounds[n], err = p.expression(); err != nil {
			return nil, err
		}
	}
	if !slice && bounds[0] == nil {
		return nil, p.errorf("[] needs an index")
	}
	return func(r *run) (any, error) {
		v, err := e(r)
		if err != nil {
			return nil, err
		}
		var values [3]any
		for i, b := range bounds {
			if b == nil {
				continue
			}
			if values[i], err = b(r); err != nil {
				return nil, err
			}
		}
		if slice {
			return r.slice(v, values)
		}
		return r.item(v, values[0])
	}, nil
}

// named is an argument passed by name.
type named struct {
	name string
	e    expression
}

// arguments parses those of a call up to the closing parenthesis.
func (p *parser) arguments() (args []expression, byName []named, err error) {
	for first := true; !p.take(")"); first = false {
		if !first {
			if err := p.expect(","); err != nil {
				return nil, nil, err
			}
			if p.take(")") {
				break
			}
		}
		t, after := p.peek(), p.tokens[min(p.at+1, len(p.tokens)-1)]
		isNamed := t.kind == name && after.kind == operator && after.value == "="
		if isNamed {
			p.at += 2
		}
		e, err := p.expression()
		if err != nil {
			return nil, nil, err
		}
		switch {
		case isNamed:
			byName = append(byName, named{t.value, e})
		case byName != nil:
			return nil, nil, p.errorf("an argument without a name follows one with a name")
		default:
			args = append(args, e)
		}
	}
	return args, byName, nil
}

// evaluate returns the values of arguments.
func (r *run) evaluate(args []expression, byName []named) ([]any, *Map, error) {
	values := make([]any, len(args))
	for i, a := range args {
		var err error
		if values[i], err = a(r); err != nil {
			return nil, nil, err
		}
	}
	m := &Map{}
	for _, n := range byName {
		v, err := n.e(r)
		if err != nil {
			return nil, nil, err
		}
		m.Set(n.name, v)
	}
	return values, m, nil
}

func (p *parser) callOf(e expression, what string) (expression, error) {
	args, byName, err := p.arguments()
	if err != nil {
		return nil, err
	}
	return func(r *run) (any, error) {
		f, err := e(r)
		if err != nil {
			return nil, err
		}
		values, m, err := r.evaluate(args, byName)
		if err != nil {
			return nil, err
		}
		return r.call(f, what, values, m)
	}, nil
}

// filters parses "| filter" and "is test" after an expression.
func (p *parser) filters(e expression) (expression, error) {
	defer p.restore(p.depth)
	for {
		line := p.peek().line
		if err := p.enter(); err != nil {
			return nil, err
		}
		var err error
		switch {
		case p.take("|"):
			e, err = p.filter(e, line)
		case p.take("is"):
			e, err = p.test(e, line)
		default:
			return e, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (p *parser) filter(e expression, line int) (expression, error) {
	t, err := p.expectKind(name, "the name of a filter")
	if err != nil {
		return nil, err
	}
	f, ok := filters[t.value]
	if !ok {
		return nil, p.errorf("the filter %.40q is not supported in chat templates", t.value)
	}
	var args []expression
	var byName []named
	if p.take("(") {
		if args, byName, err = p.arguments(); err != nil {
			return nil, err
		}
	}
	return func(r *run) (any, error) {
		if err := r.operate(); err != nil {
			return nil, err
		}
		v, err := e(r)
		if err != nil {
			return nil, err
		}
		values, m, err := r.evaluate(args, byName)
		if err != nil {
			return nil, err
		}
		out, err := f(r, v, arguments{values, m})
		if err != nil {
			err = fmt.Errorf("filter %s: %w", t.value, err)
		}
		return out, located(line, err)
	}, nil
}

func (p *parser) test(e expression, line int) (expression, error) {
	negated := p.take("not")
	t, err := p.expectKind(name, "the name of a test")
	if err != nil {
		return nil, err
	}
	f, ok := tests[t.value]
	if !ok {
		return nil, p.errorf("the test %.40q is not supported in chat templates", t.value)
	}
	args, err := p.testArguments()
	if err != nil {
		return nil, err
	}
	return func(r *run) (any, error) {
		v, err := e(r)
		if err != nil {
			return nil, err
		}
		values, _, err := r.evaluate(args, nil)
		if err != nil {
			return nil, err
		}
		holds, err := f(r, v, values)
		return holds != negated, located(line, err)
	}, nil
}

// testArguments parses those in parentheses, or one without.
func (p *parser) testArguments() ([]expression, error) {
	if p.take("(") {
		args, byName, err := p.arguments()
		if byName != nil {
			return nil, p.errorf("tests take no named arguments")
		}
		return args, err
	}
	t := p.peek()
	word := t.kind == name && slices.Contains([]string{"else", "or", "and", "is", "if", "in", "not"}, t.value)
	literal := t.kind == stringLiteral || t.kind == integer || t.kind == float || t.kind == name || p.is("[") || p.is("{")
	if word || !literal || t.kind == operator && !p.is("[") && !p.is("{") {
		return nil, nil
	}
	e, err := p.primary()
	if err != nil {
		return nil, err
	}
	e, err = p.postfix(e)
	return []expression{e}, err
}
