// SPDX-License-Identifier: Apache-2.0

package chattemplate_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/findep/findep-operator/runtime/chattemplate"
)

var now = time.Date(2026, 11, 24, 7, 5, 9, 0, time.UTC)

// reference is a rendering by Jinja2; see testdata/make.py.
type reference struct {
	Name, Template string
	Vars           json.RawMessage
	Want           string
	Error          string
}

func references(t testing.TB) []reference {
	t.Helper()
	b, err := os.ReadFile("testdata/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []reference
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	for i, c := range cases {
		if strings.HasSuffix(c.Template, ".jinja") {
			b, err := os.ReadFile(filepath.Join("testdata", c.Template))
			if err != nil {
				t.Fatal(err)
			}
			cases[i].Template = string(b)
		}
	}
	return cases
}

func variables(t testing.TB, raw []byte) *chattemplate.Map {
	t.Helper()
	v, err := chattemplate.DecodeJSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	m, ok := v.(*chattemplate.Map)
	if !ok {
		t.Fatalf("%s is no object", raw)
	}
	return m
}

// TestEqualsJinja: each template gives what Jinja2 gives, and fails where it
// fails.
func TestEqualsJinja(t *testing.T) {
	for _, c := range references(t) {
		t.Run(c.Name, func(t *testing.T) {
			template, err := chattemplate.Parse(c.Template)
			if err != nil {
				t.Fatalf("%v in %s", err, c.Template)
			}
			got, err := template.Render(variables(t, c.Vars), now)
			if (err != nil) != (c.Error != "") {
				t.Fatalf("error %v, want %q", err, c.Error)
			}
			if diff := cmp.Diff(c.Want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.Template, diff)
			}
			var raised *chattemplate.RaisedError
			if errors.As(err, &raised) && raised.Message != c.Error {
				t.Errorf("raised %q, want %q", raised.Message, c.Error)
			}
		})
	}
}

func render(t testing.TB, source, vars string) (string, error) {
	t.Helper()
	template, err := chattemplate.Parse(source)
	if err != nil {
		return "", err
	}
	return template.Render(variables(t, []byte(vars)), now)
}

func TestErrorsNameTheLineAndTheCause(t *testing.T) {
	tests := map[string]struct{ source, want string }{
		"unknown tag":         {"a\nb\n{% include 'x' %}", `line 3: the tag {% include %} is not supported`},
		"inheritance":         {"{% extends 'x' %}", "{% extends %} is not supported"},
		"unknown filter":      {"\n{{ 1 | urlize }}", `line 2: the filter "urlize" is not supported`},
		"unknown test":        {"{{ 1 is prime }}", `the test "prime" is not supported`},
		"unknown method":      {"{{ 'a'.format(1) }}", "format is undefined value"},
		"immutable":           {"{{ [1].append(2) }}", "append is undefined value"},
		"no end of if":        {"{% if true %}", "{% endif %}"},
		"no end of for":       {"{% for a in b %}x{% else %}", "{% endfor %}"},
		"else twice":          {"{% if a %}{% else %}{% else %}{% endif %}", "{% else %} is not supported"},
		"open tag":            {"\n{{ 1", "line 2: a tag is not closed with }}"},
		"open comment":        {"{# 1", "not closed with #}"},
		"open string":         {"{{ 'a }}", "a string is not closed"},
		"open raw":            {"{% raw %}{{", "{% endraw %}"},
		"no expression":       {"{{ }}", "expected an expression"},
		"missing parenthesis": {"{{ (1 }}", "tag is not closed"},
		"break outside":       {"{% break %}", "outside of a loop"},
		"in a macro":          {"{% for a in [1] %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}", "outside of a loop"},
		"huge number":         {"{{ 99999999999999999999 }}", "too large"},
		"bad escape":          {`{{ '\ud800' }}`, "no character"},
		"bad character":       {"{{ 1 ? 2 }}", "unexpected character '?'"},
		"undefined":           {"a\n{{ x.y }}", `line 2: "x" is undefined`},
		"not callable":        {"{{ x() }}", "x is undefined value"},
		"set of a mapping":    {"{% set m = {} %}{% set m.a = 1 %}", "m is no namespace"},
		"unpacking":           {"{% for a, b in [1] %}{% endfor %}", "int cannot be looped over"},
		"parameters":          {"{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "takes 1 arguments"},
		"no such parameter":   {"{% macro m(a) %}{% endmacro %}{{ m(b=2) }}", "no parameter b"},
		"order":               {"{{ 1 < 'a' }}", "have no order"},
		"a function as text":  {"{{ range }}", "function has no text"},
		"a function as JSON":  {"{{ range | tojson }}", "function cannot be written as JSON"},
		"strftime":            {"{{ strftime_now('%Q') }}", "does not know %Q"},
		"recursive loop":      {"{% for a in b recursive %}{% endfor %}", "recursive loops are not supported"},
		"source":              {strings.Repeat("a", chattemplate.MaxSource+1), "at most 262144"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := render(t, tt.source, `{}`)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%q, error %v; want one with %q", got, err, tt.want)
			}
		})
	}
}

// TestBounds: what would take all time, memory or stack ends with an error.
func TestBounds(t *testing.T) {
	tests := map[string]struct{ source, want string }{
		"endless macro":     {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested more than 20 deep"},
		"macros in turn":    {"{% macro g() %}{{ f() }}{% endmacro %}{% macro f() %}{{ g() }}{% endmacro %}{{ f() }}", "nested more than 20 deep"},
		"doubling":          {"{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "bytes on the way"},
		"doubling a list":   {"{% set ns = namespace(x=[1, 2]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "bytes on the way"},
		"doubling JSON":     {"{% set ns = namespace(x='\"') %}{% for i in range(60) %}{% set ns.x = ns.x | tojson %}{% endfor %}", "bytes on the way"},
		"growing by places": {"{% set ns = namespace(x='aa') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('a', ns.x) %}{% endfor %}", "bytes on the way"},
		"growing by format": {"{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x]|join(ns.x) %}{% endfor %}", "bytes on the way"},
		"indentation":       {"{% set s = ('a\n' * 1000000) %}{{ s | indent(1000) }}", "bytes on the way"},
		"repetition":        {"{{ 'abc' * 1000000000000 }}", "bytes on the way"},
		"huge range":        {"{{ range(10000000000)|length }}", "bytes on the way"},
		"loops in loops":    {"{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(1000) %}{% endfor %}{% endfor %}{% endfor %}", "operations"},
		"empty loops":       {"{% for a in range(3000) %}{% for b in range(3000) %}{% endfor %}{% endfor %}", "operations"},
		"output":            {"{% set s = 'a' * 1000000 %}{% for i in range(100) %}{{ s }}{% endfor %}", "longer than 16777216 bytes"},
		"nested values":     {"{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}", "nested more than"},
		"widening values":   {"{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x == ns.x }}{{ ns.x|tojson }}", "operations"},
		"nested in itself":  {"{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x }}", "has no text"},
		"parentheses":       {"{{ " + strings.Repeat("(", 100_000) + "1" + strings.Repeat(")", 100_000) + " }}", "nested more than"},
		"signs":             {"{{ " + strings.Repeat("-", 200_000) + "'a' }}", "not possible"},
		"tags":              {strings.Repeat("{% if true %}", 10_000), "nested more than"},
		"operators":         {"{{ 1" + strings.Repeat("+1", 100_000) + " }}", "nested more than"},
		"filters":           {"{{ 1" + strings.Repeat("|abs", 50_000) + " }}", "nested more than"},
		"attributes":        {"{{ a" + strings.Repeat(".b", 100_000) + " }}", "nested more than"},
		"conditions":        {"{{ 1" + strings.Repeat(" if 1 else 1", 20_000) + " }}", "nested more than"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := render(t, tt.source, `{}`)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%.100q, error %.300v; want one with %q", got, err, tt.want)
			}
		})
	}
}

func TestStrftimeNow(t *testing.T) {
	got, err := render(t, "{{ strftime_now('%d %b %Y, %A %H:%M:%S %j %y 100%%') }}", `{}`)
	if want := "24 Nov 2026, Tuesday 07:05:09 328 26 100%"; got != want || err != nil {
		t.Errorf("%q, error %v; want %q", got, err, want)
	}
}

func TestConfigForms(t *testing.T) {
	tests := map[string]struct{ config, file, want, err string }{
		"none":         {config: `{"bos_token":"<s>"}`, want: "no template"},
		"null":         {config: `{"chat_template":null}`, want: "no template"},
		"nothing":      {want: "no template"},
		"string":       {config: `{"bos_token":"<s>","chat_template":"{{ bos_token }}{{ messages[0].content }}"}`, want: "<s>hi"},
		"token object": {config: `{"eos_token":{"content":"</s>","lstrip":false},"bos_token":null,"chat_template":"{{ eos_token }}{{ bos_token is defined }}"}`, want: "</s>False"},
		"named":        {config: `{"chat_template":[{"name":"tool_use","template":"t"},{"name":"default","template":"d{{ thinking }}"}]}`, want: "dTrue"},
		"no default":   {config: `{"chat_template":[{"name":"tool_use","template":"t"}]}`, err: `"tool_use" but none named default`},
		"number":       {config: `{"chat_template":3}`, err: "neither a string nor"},
		"broken":       {config: `{`, err: "tokenizer_config.json"},
		"bad template": {config: `{"chat_template":"{{"}`, err: "not closed"},
		"own file":     {config: `{"chat_template":"config"}`, file: "file", want: "file"},
		"prompt":       {config: `{"chat_template":"{{ add_generation_prompt }}{{ tools is none }}"}`, want: "TrueTrue"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{"tokenizer_config.json": tt.config, "chat_template.jinja": tt.file} {
				if text == "" {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			chat, err := chattemplate.Load(dir)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := "no template"
			if chat != nil {
				if got, err = chat.Prompt([]*chattemplate.Map{chattemplate.MapOf("role", "user", "content", "hi")}, chattemplate.MapOf("thinking", true), now); err != nil {
					t.Fatal(err)
				}
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func TestOptionsCannotReplaceTheMessages(t *testing.T) {
	chat, err := chattemplate.New(nil, "{{ messages }}")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chat.Prompt(nil, chattemplate.MapOf("messages", "x"), now); err == nil || !strings.Contains(err.Error(), "messages cannot be set") {
		t.Errorf("error %v", err)
	}
}

func TestDecodeJSONBounds(t *testing.T) {
	for name, text := range map[string]string{
		"nested":   strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
		"trailing": "1 2", "cut": `{"a":`, "number": "1e999", "empty": "",
	} {
		if v, err := chattemplate.DecodeJSON([]byte(text)); err == nil {
			t.Errorf("%s: %v", name, v)
		}
	}
}

// FuzzRender: any template and any variables give text within the limit or an
// error, and the same one twice.
func FuzzRender(f *testing.F) {
	for _, c := range references(f) {
		f.Add(c.Template, []byte(c.Vars))
	}
	f.Fuzz(func(t *testing.T, source string, vars []byte) {
		template, err := chattemplate.Parse(source)
		if err != nil {
			return
		}
		v, err := chattemplate.DecodeJSON(vars)
		m, ok := v.(*chattemplate.Map)
		if err != nil || !ok {
			m = &chattemplate.Map{}
		}
		first, err1 := template.Render(m, now)
		second, err2 := template.Render(m, now)
		if len(first) > chattemplate.MaxOutput || first != second || (err1 == nil) != (err2 == nil) {
			t.Fatalf("%.100q and %.100q, errors %v and %v", first, second, err1, err2)
		}
	})
}
