// SPDX-License-Identifier: Apache-2.0

package chattemplate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// maxConfig bounds tokenizer_config.json, which lists every added token.
const maxConfig = 16 << 20

// Chat is the chat template of a model with its special tokens.
type Chat struct {
	template *Template
	// tokens are bos_token and its like, as the template knows them.
	tokens *Map
}

// Load reads the chat template of a model directory: chat_template.jinja, or
// chat_template of tokenizer_config.json. A model without one gives nil.
func Load(dir string) (*Chat, error) {
	config, err := readFile(filepath.Join(dir, "tokenizer_config.json"), maxConfig)
	if err != nil {
		return nil, err
	}
	source, err := readFile(filepath.Join(dir, "chat_template.jinja"), MaxSource)
	if err != nil {
		return nil, err
	}
	c, err := New(config, string(source))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return c, nil
}

// readFile returns nothing for a file that is not there.
func readFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("chat template: %w", err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("chat template: %w", err)
	}
	if int64(len(b)) > most {
		return nil, fmt.Errorf("chat template: %s has more than %d bytes", path, most)
	}
	return b, nil
}

// New reads tokenizer_config.json; either argument may be empty. source is
// the template itself where it has a file of its own, and then goes before
// that of the configuration. Without a template it returns nil.
func New(config []byte, source string) (*Chat, error) {
	tokens, inConfig, err := parseConfig(config)
	if err != nil {
		return nil, fmt.Errorf("tokenizer_config.json: %w", err)
	}
	if source == "" {
		source = inConfig
	}
	if source == "" {
		return nil, nil
	}
	t, err := Parse(source)
	if err != nil {
		return nil, err
	}
	return &Chat{template: t, tokens: tokens}, nil
}

func parseConfig(b []byte) (tokens *Map, source string, err error) {
	tokens = &Map{}
	if len(bytes.TrimSpace(b)) == 0 {
		return tokens, "", nil
	}
	var c map[string]json.RawMessage
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, "", err
	}
	for _, n := range []string{"bos_token", "eos_token", "pad_token", "unk_token"} {
		if text, ok := tokenText(c[n]); ok {
			tokens.Set(n, text)
		}
	}
	source, err = chooseTemplate(c["chat_template"])
	return tokens, source, err
}

// tokenText reads a token: a string, or an object with content.
func tokenText(raw json.RawMessage) (string, bool) {
	var text *string
	if json.Unmarshal(raw, &text) == nil && text != nil {
		return *text, true
	}
	var object *struct {
		Content string `json:"content"`
	}
	if json.Unmarshal(raw, &object) == nil && object != nil {
		return object.Content, true
	}
	return "", false
}

// chooseTemplate reads chat_template: a string, or a list of named ones of
// which the one named default is for chats.
func chooseTemplate(raw json.RawMessage) (string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", nil
	}
	var source string
	if json.Unmarshal(raw, &source) == nil {
		return source, nil
	}
	var many []struct{ Name, Template string }
	if err := json.Unmarshal(raw, &many); err != nil {
		return "", fmt.Errorf("chat_template is neither a string nor a list of named templates")
	}
	names := make([]string, 0, len(many))
	for _, t := range many {
		if t.Name == "default" {
			return t.Template, nil
		}
		names = append(names, t.Name)
	}
	return "", fmt.Errorf("chat_template has the templates %.200q but none named default", strings.Join(names, ", "))
}

// reserved are the variables that options must not replace.
var reserved = []string{"messages", "add_generation_prompt", "tools", "documents"}

// Prompt returns the text that the model is to continue: the messages, each a
// mapping of role, content and whatever else the template knows, and the
// beginning of the assistant's answer. options are further variables of the
// template, such as enable_thinking; may be nil. The error is a *RaisedError
// when the template refuses the messages.
func (c *Chat) Prompt(messages []*Map, options *Map, now time.Time) (string, error) {
	vars := &Map{}
	for _, k := range c.tokens.Keys() {
		vars.Set(k, c.tokens.values[k])
	}
	if options != nil {
		for _, k := range options.Keys() {
			vars.Set(k, options.values[k])
		}
	}
	for _, k := range reserved {
		if options != nil {
			if _, ok := options.Get(k); ok {
				return "", fmt.Errorf("chat template: the variable %s cannot be set from outside", k)
			}
		}
	}
	list := make([]any, len(messages))
	for i, m := range messages {
		list[i] = m
	}
	vars.Set("messages", list)
	vars.Set("add_generation_prompt", true)
	vars.Set("tools", nil)
	vars.Set("documents", nil)
	return c.template.Render(vars, now)
}

// DecodeJSON reads a JSON value with the order of its keys, for variables of a
// template. Nesting is bounded.
func DecodeJSON(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := decodeValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more after the JSON value")
	}
	return v, nil
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	if depth > maxNesting/2 {
		return nil, fmt.Errorf("the JSON value is nested more than %d deep", maxNesting/2)
	}
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '{' {
			return decodeMap(d, depth)
		}
		return decodeList(d, depth)
	case json.Number:
		if n, err := t.Int64(); err == nil {
			return n, nil
		}
		return t.Float64()
	}
	return t, nil
}

func decodeMap(d *json.Decoder, depth int) (any, error) {
	m := &Map{}
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return nil, err
		}
		v, err := decodeValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		key, _ := k.(string) // Keys are always strings.
		m.Set(key, v)
	}
	_, err := d.Token()
	return m, err
}

func decodeList(d *json.Decoder, depth int) (any, error) {
	list := []any{}
	for d.More() {
		v, err := decodeValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := d.Token()
	return list, err
}
