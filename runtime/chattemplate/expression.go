// SPDX-License-Identifier: Apache-2.0

package chattemplate

import (
	"fmt"
	"slices"
	"strconv"
)

// expression parses a conditional expression, the outermost form.
func (p *parser) expression() (expression, error) {
	defer p.restore(p.depth)
	if err := p.enter(); err != nil {
		return nil, err
	}
	e, err := p.or()
	if err != nil {
		return nil, err
	}
	for p.take("if") {
		if e, err = p.conditional(e); err != nil {
			return nil, err
		}
	}
	return e, nil
}

func (p *parser) conditional(yes expression) (expression, error) {
	condition, err := p.or()
	if err != nil {
		return nil, err
	}
	no := func(*run) (any, error) { return undefined("the value of an if without else"), nil }
	if p.take("else") {
		if no, err = p.expression(); err != nil {
			return nil, err
		}
	}
	return func(r *run) (any, error) {
		v, err := condition(r)
		if err != nil {
			return nil, err
		}
		if truth(v) {
			return yes(r)
		}
		return no(r)
	}, nil
}

// tuple parses "a" or "a, b", which is a list.
func (p *parser) tuple() (expression, error) {
	first, err := p.expression()
	if err != nil || !p.is(",") {
		return first, err
	}
	list := []expression{first}
	for p.take(",") {
		if k := p.peek(); k.kind == outputEnd || k.kind == blockEnd || p.is(")") {
			break
		}
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return listOf(list), nil
}

func listOf(list []expression) expression {
	return func(r *run) (any, error) {
		out := make([]any, len(list))
		for i, e := range list {
			var err error
			if out[i], err = e(r); err != nil {
				return nil, err
			}
		}
		return out, r.made(16 * len(out))
	}
}

func (p *parser) or() (expression, error) {
	return p.shortCircuit("or", true, func() (expression, error) {
		return p.shortCircuit("and", false, p.not)
	})
}

// shortCircuit parses operands joined by a word. An operand that is as until
// decides.
func (p *parser) shortCircuit(word string, until bool, operand func() (expression, error)) (expression, error) {
	first, err := operand()
	if err != nil || !p.is(word) {
		return first, err
	}
	list := []expression{first}
	for p.take(word) {
		e, err := operand()
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return func(r *run) (v any, err error) {
		for _, e := range list {
			if v, err = e(r); err != nil || truth(v) == until {
				return v, err
			}
		}
		return v, nil
	}, nil
}

func (p *parser) not() (expression, error) {
	negations := 0
	for p.take("not") {
		negations++
	}
	e, err := p.comparison()
	if err != nil || negations == 0 {
		return e, err
	}
	return func(r *run) (any, error) {
		v, err := e(r)
		return truth(v) != (negations%2 == 1), err
	}, nil
}

// comparison parses a chain like a < b <= c.
func (p *parser) comparison() (expression, error) {
	type link struct {
		op string
		e  expression
	}
	first, err := p.sum()
	if err != nil {
		return nil, err
	}
	var links []link
	for op := p.comparator(); op != ""; op = p.comparator() {
		e, err := p.sum()
		if err != nil {
			return nil, err
		}
		links = append(links, link{op, e})
	}
	if links == nil {
		return first, nil
	}
	return func(r *run) (any, error) {
		left, err := first(r)
		if err != nil {
			return nil, err
		}
		for _, l := range links {
			right, err := l.e(r)
			if err != nil {
				return nil, err
			}
			if holds, err := r.compare(l.op, left, right); !holds || err != nil {
				return false, err
			}
			left = right
		}
		return true, nil
	}, nil
}

// comparator takes an operator that compares; "" if there is none.
func (p *parser) comparator() string {
	for _, op := range []string{"==", "!=", "<=", ">=", "<", ">", "in"} {
		if p.take(op) {
			return op
		}
	}
	if p.is("not") && p.tokens[p.at+1].value == "in" && p.tokens[p.at+1].kind == name {
		p.at += 2
		return "not in"
	}
	return ""
}

func (r *run) compare(op string, a, b any) (bool, error) {
	if err := r.operate(); err != nil {
		return false, err
	}
	switch op {
	case "==", "!=":
		same, err := r.equal(a, b, 0)
		return same == (op == "=="), err
	case "in", "not in":
		found, err := r.contains(b, a)
		return found == (op == "in"), err
	}
	sign, err := order(a, b)
	switch op {
	case "<":
		return sign < 0, err
	case "<=":
		return sign <= 0, err
	case ">":
		return sign > 0, err
	default:
		return sign >= 0, err
	}
}

// binary parses operands joined by any of ops, from left to right.
func (p *parser) binary(operand func() (expression, error), ops ...string) (expression, error) {
	defer p.restore(p.depth)
	left, err := operand()
	for err == nil {
		t := p.peek()
		if t.kind != operator || !slices.Contains(ops, t.value) {
			return left, nil
		}
		p.at++
		var right expression
		if right, err = operand(); err != nil {
			break
		}
		// Chains of operators nest as parentheses do when they are evaluated.
		if err = p.enter(); err != nil {
			break
		}
		left = apply(t, left, right)
	}
	return nil, err
}

func apply(op token, left, right expression) expression {
	return func(r *run) (any, error) {
		if err := r.operate(); err != nil {
			return nil, err
		}
		a, err := left(r)
		if err != nil {
			return nil, err
		}
		b, err := right(r)
		if err != nil {
			return nil, err
		}
		v, err := r.arithmetic(op.value, a, b)
		return v, located(op.line, err)
	}
}

// The order of precedence is Jinja's: + binds less than ~, and ~ less than *.
func (p *parser) sum() (expression, error)     { return p.binary(p.concat, "+", "-") }
func (p *parser) concat() (expression, error)  { return p.binary(p.product, "~") }
func (p *parser) product() (expression, error) { return p.binary(p.power, "*", "/", "//", "%") }
func (p *parser) power() (expression, error)   { return p.binary(p.unary, "**") }

// unary parses a sign, and then filters and tests, which bind less.
func (p *parser) unary() (expression, error) {
	e, err := p.signed()
	if err != nil {
		return nil, err
	}
	return p.filters(e)
}

func (p *parser) signed() (expression, error) {
	negative, signs := false, false
	for p.is("-") || p.is("+") {
		signs = true
		negative = negative != (p.next().value == "-")
	}
	e, err := p.primary()
	if err != nil {
		return nil, err
	}
	if e, err = p.postfix(e); err != nil || !signs {
		return e, err
	}
	return func(r *run) (any, error) {
		v, err := e(r)
		if err != nil {
			return nil, err
		}
		if !negative {
			return r.arithmetic("+", int64(0), v)
		}
		return r.arithmetic("-", int64(0), v)
	}, nil
}

func constant(v any) expression { return func(*run) (any, error) { return v, nil } }

var constants = map[string]any{"true": true, "True": true, "false": false, "False": false, "none": nil, "None": nil}

func (p *parser) primary() (expression, error) {
	t := p.next()
	switch t.kind {
	case name:
		if v, ok := constants[t.value]; ok {
			return constant(v), nil
		}
		return func(r *run) (any, error) { return r.lookup(t.value), r.operate() }, nil
	case stringLiteral:
		s := t.value
		for p.peek().kind == stringLiteral {
			s += p.next().value
		}
		return constant(s), nil
	case integer:
		i, err := strconv.ParseInt(t.value, 10, 64)
		return constant(i), err
	case float:
		f, err := strconv.ParseFloat(t.value, 64)
		return constant(f), err
	case operator:
		switch t.value {
		case "(":
			return p.parenthesis()
		case "[":
			list, err := p.list("]")
			return listOf(list), err
		case "{":
			return p.mapping()
		}
	}
	p.at -= min(1, p.at)
	return nil, p.errorf("expected an expression, found %s", t)
}

func (p *parser) parenthesis() (expression, error) {
	if p.take(")") {
		return listOf(nil), nil
	}
	e, err := p.tuple()
	if err != nil {
		return nil, err
	}
	return e, p.expect(")")
}

// list parses expressions up to a closing bracket, which it passes.
func (p *parser) list(closing string) ([]expression, error) {
	var out []expression
	for !p.take(closing) {
		if len(out) > 0 {
			if err := p.expect(","); err != nil {
				return nil, err
			}
			if p.take(closing) {
				break
			}
		}
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

func (p *parser) mapping() (expression, error) {
	var keys, values []expression
	for !p.take("}") {
		if len(keys) > 0 {
			if err := p.expect(","); err != nil {
				return nil, err
			}
			if p.take("}") {
				break
			}
		}
		k, err := p.expression()
		if err != nil {
			return nil, err
		}
		if err := p.expect(":"); err != nil {
			return nil, err
		}
		v, err := p.expression()
		if err != nil {
			return nil, err
		}
		keys, values = append(keys, k), append(values, v)
	}
	return func(r *run) (any, error) {
		m := &Map{}
		for i := range keys {
			k, err := keys[i](r)
			if err != nil {
				return nil, err
			}
			key, ok := k.(string)
			if !ok {
				return nil, fmt.Errorf("keys of mappings must be strings, not %s", typeName(k))
			}
			v, err := values[i](r)
			if err != nil {
				return nil, err
			}
			m.Set(key, v)
		}
		return m, r.made(64 * len(keys))
	}, nil
}
