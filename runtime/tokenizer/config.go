// SPDX-License-Identifier: Apache-2.0

package tokenizer

import (
	"encoding/json"
	"fmt"
)

type configJSON struct {
	AddBOS *bool       `json:"add_bos_token"`
	AddEOS *bool       `json:"add_eos_token"`
	BOS    tokenInText `json:"bos_token"`
	EOS    tokenInText `json:"eos_token"`
}

// tokenInText is a token named by its text: a string, null, or an object with
// "content" (older files).
type tokenInText string

// UnmarshalJSON accepts the three forms.
func (t *tokenInText) UnmarshalJSON(b []byte) error {
	var text *string
	if json.Unmarshal(b, &text) == nil {
		if text != nil {
			*t = tokenInText(*text)
		}
		return nil
	}
	var object struct {
		Content string `json:"content"`
	}
	if err := json.Unmarshal(b, &object); err != nil {
		return fmt.Errorf("a token is neither a string nor an object with content: %w", err)
	}
	*t = tokenInText(object.Content)
	return nil
}

// applyConfig sets the tokens around a sequence. add_bos_token replaces what
// the post-processor says, as transformers does for the Llama tokenizers that
// DeepSeek uses; both saying so gives one token, not two.
func (t *Tokenizer) applyConfig(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	var c configJSON
	if err := json.Unmarshal(b, &c); err != nil {
		return err
	}
	var err error
	if t.bos, err = t.named("bos_token", c.BOS); err != nil {
		return err
	}
	if t.eos, err = t.named("eos_token", c.EOS); err != nil {
		return err
	}
	if t.prefix, err = around("bos", c.AddBOS, t.bos, t.prefix); err != nil {
		return err
	}
	t.suffix, err = around("eos", c.AddEOS, t.eos, t.suffix)
	return err
}

func (t *Tokenizer) named(field string, token tokenInText) (*int32, error) {
	if token == "" {
		return nil, nil
	}
	id, ok := t.byText[string(token)]
	if !ok {
		return nil, fmt.Errorf("%s %.40q is not among the added_tokens of tokenizer.json", field, string(token))
	}
	return &id, nil
}

func around(name string, add *bool, id *int32, template []int32) ([]int32, error) {
	switch {
	case add == nil:
		return template, nil
	case !*add:
		return nil, nil
	case id == nil:
		return nil, fmt.Errorf("add_%s_token is true but there is no %s_token", name, name)
	default:
		return []int32{*id}, nil
	}
}
