// SPDX-License-Identifier: Apache-2.0

package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/text/unicode/norm"
)

const (
	// maxFile bounds tokenizer.json; Qwen3's, the largest in use, has 11 MB.
	maxFile = 128 << 20
	// maxVocabulary bounds ids, so that a file cannot ask for a huge table.
	maxVocabulary = 1 << 21
	// maxAdded bounds the added tokens, maxContent the text of one.
	maxAdded   = 1 << 16
	maxContent = 4 << 10
)

type tokenizerJSON struct {
	AddedTokens   []addedTokenJSON   `json:"added_tokens"`
	Normalizer    *normalizerJSON    `json:"normalizer"`
	PreTokenizer  *preTokenizerJSON  `json:"pre_tokenizer"`
	PostProcessor *postProcessorJSON `json:"post_processor"`
	Decoder       *struct {
		Type string `json:"type"`
	} `json:"decoder"`
	Model modelJSON `json:"model"`
}

type addedTokenJSON struct {
	ID         int32  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

type normalizerJSON struct {
	Type        string           `json:"type"`
	Normalizers []normalizerJSON `json:"normalizers"`
}

type postProcessorJSON struct {
	Type       string              `json:"type"`
	Processors []postProcessorJSON `json:"processors"`
	// Single is TemplateProcessing's template for one sequence.
	Single []struct {
		SpecialToken *struct {
			ID string `json:"id"`
		} `json:"SpecialToken"`
		Sequence *struct {
			ID string `json:"id"`
		} `json:"Sequence"`
	} `json:"single"`
}

type modelJSON struct {
	Type                    string            `json:"type"`
	Vocab                   map[string]int32  `json:"vocab"`
	Merges                  []json.RawMessage `json:"merges"`
	Dropout                 *float64          `json:"dropout"`
	ContinuingSubwordPrefix string            `json:"continuing_subword_prefix"`
	EndOfWordSuffix         string            `json:"end_of_word_suffix"`
	ByteFallback            bool              `json:"byte_fallback"`
	IgnoreMerges            bool              `json:"ignore_merges"`
}

// Load reads tokenizer.json of a model directory and, if it is there,
// tokenizer_config.json.
func Load(dir string) (*Tokenizer, error) {
	definition, err := readBounded(filepath.Join(dir, "tokenizer.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("tokenizer: %s has no tokenizer.json; only the fast-tokenizer layout of Hugging Face is read (save the tokenizer with transformers to convert)", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	config, err := readBounded(filepath.Join(dir, "tokenizer_config.json"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	t, err := Parse(definition, config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return t, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s exceeds the limit of %d bytes", path, maxFile)
	}
	return b, nil
}

// Parse builds a Tokenizer from the contents of tokenizer.json and of
// tokenizer_config.json, which may be empty.
func Parse(definition, config []byte) (*Tokenizer, error) {
	var file tokenizerJSON
	if err := json.Unmarshal(definition, &file); err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	t := &Tokenizer{raw: &trie{}, normalized: &trie{}, special: map[int32]bool{}, byText: map[string]int32{}}
	for _, step := range []func(*tokenizerJSON) error{
		t.buildNormalizer, t.buildPreTokenizer, t.buildVocabulary, t.buildMerges, t.buildAdded, t.buildTemplate,
	} {
		if err := step(&file); err != nil {
			return nil, fmt.Errorf("tokenizer.json: %w", err)
		}
	}
	if err := t.applyConfig(config); err != nil {
		return nil, fmt.Errorf("tokenizer_config.json: %w", err)
	}
	return t, nil
}

func (t *Tokenizer) buildNormalizer(file *tokenizerJSON) error {
	if file.Normalizer == nil {
		return nil
	}
	return t.appendNormalizer(file.Normalizer)
}

func (t *Tokenizer) appendNormalizer(n *normalizerJSON) error {
	forms := map[string]norm.Form{"NFC": norm.NFC, "NFD": norm.NFD, "NFKC": norm.NFKC, "NFKD": norm.NFKD}
	if n.Type == "Sequence" {
		for i := range n.Normalizers {
			if err := t.appendNormalizer(&n.Normalizers[i]); err != nil {
				return err
			}
		}
		return nil
	}
	form, ok := forms[n.Type]
	if !ok {
		return fmt.Errorf("normalizer: type %q is not supported; byte-level BPE models use Sequence, NFC, NFD, NFKC or NFKD", n.Type)
	}
	if len(t.normalize) >= maxStages {
		return fmt.Errorf("normalizer: more than %d stages", maxStages)
	}
	t.normalize = append(t.normalize, form)
	return nil
}

func (t *Tokenizer) buildPreTokenizer(file *tokenizerJSON) error {
	if file.PreTokenizer == nil {
		return errors.New("pre_tokenizer is missing; only byte-level BPE is supported")
	}
	byteLevel := false
	stages, err := file.PreTokenizer.build(nil, &byteLevel)
	if err != nil {
		return err
	}
	if !byteLevel || file.Decoder == nil || file.Decoder.Type != "ByteLevel" {
		return errors.New("pre_tokenizer and decoder do not both have ByteLevel; only byte-level BPE is supported")
	}
	t.preTokenize = stages
	return nil
}

// checkKind refuses what would need another algorithm than plain BPE.
func (m *modelJSON) checkKind() error {
	plain := (m.Type == "BPE" || m.Type == "") && !m.ByteFallback && m.ContinuingSubwordPrefix == "" && m.EndOfWordSuffix == ""
	if !plain || m.Dropout != nil && *m.Dropout != 0 {
		return fmt.Errorf("model: type %q, byte_fallback %v, continuing_subword_prefix %q, end_of_word_suffix %q or dropout is not plain byte-level BPE, which alone is supported",
			m.Type, m.ByteFallback, m.ContinuingSubwordPrefix, m.EndOfWordSuffix)
	}
	if len(m.Vocab) == 0 {
		return errors.New("model.vocab is empty")
	}
	return nil
}

func (t *Tokenizer) buildVocabulary(file *tokenizerJSON) error {
	m := &file.Model
	if err := m.checkKind(); err != nil {
		return err
	}
	if m.IgnoreMerges {
		t.model.whole = make(map[string]int32, len(m.Vocab))
	}
	seen := [256]bool{}
	for token, id := range m.Vocab {
		if err := t.setBytes("model.vocab", token, id); err != nil {
			return err
		}
		raw, ok := fromByteLevel(token)
		if !ok {
			continue
		}
		if len(raw) == 1 {
			t.model.byteID[raw[0]], seen[raw[0]] = id, true
		}
		if t.model.whole != nil {
			t.model.whole[string(raw)] = id
		}
	}
	for b, ok := range seen {
		if !ok {
			return fmt.Errorf("model.vocab has no token for byte 0x%02x; text with it could not be encoded", b)
		}
	}
	return nil
}

// setBytes records what an id decodes to, growing the table up to the bound.
func (t *Tokenizer) setBytes(where, token string, id int32) error {
	if id < 0 || id >= maxVocabulary {
		return fmt.Errorf("%s: id %d of token %.40q is outside 0..%d", where, id, token, maxVocabulary-1)
	}
	if grow := int(id) + 1 - len(t.bytes); grow > 0 {
		t.bytes = append(t.bytes, make([][]byte, grow)...)
	}
	b := decodedBytes(token)
	t.bytes[id] = b
	t.longest = max(t.longest, len(b))
	return nil
}

func (t *Tokenizer) buildMerges(file *tokenizerJSON) error {
	vocab := file.Model.Vocab
	t.model.merges = make(map[pair]merge, len(file.Model.Merges))
	for rank, raw := range file.Model.Merges {
		left, right, err := mergePair(raw)
		if err != nil {
			return fmt.Errorf("model.merges[%d]: %w", rank, err)
		}
		l, okLeft := vocab[left]
		r, okRight := vocab[right]
		id, ok := vocab[left+right]
		if !okLeft || !okRight || !ok {
			return fmt.Errorf("model.merges[%d]: %.40q, %.40q or their concatenation is not in model.vocab", rank, left, right)
		}
		t.model.merges[pair{l, r}] = merge{rank: int32(rank), id: id}
	}
	return nil
}

// mergePair reads both forms in use: "left right" and ["left", "right"].
func mergePair(raw json.RawMessage) (left, right string, err error) {
	if len(raw) > 0 && raw[0] == '[' {
		var both []string
		if err := json.Unmarshal(raw, &both); err != nil {
			return "", "", err
		}
		if len(both) != 2 {
			return "", "", fmt.Errorf("%d tokens instead of 2", len(both))
		}
		return both[0], both[1], nil
	}
	var line string
	if err := json.Unmarshal(raw, &line); err != nil {
		return "", "", err
	}
	left, right, ok := strings.Cut(line, " ")
	if !ok || strings.Contains(right, " ") {
		return "", "", fmt.Errorf("%.80q is not two tokens with one space between them", line)
	}
	return left, right, nil
}

func (t *Tokenizer) buildAdded(file *tokenizerJSON) error {
	if len(file.AddedTokens) > maxAdded {
		return fmt.Errorf("added_tokens: %d entries exceed the limit of %d", len(file.AddedTokens), maxAdded)
	}
	for i := range file.AddedTokens {
		a := &file.AddedTokens[i]
		if a.Content == "" || len(a.Content) > maxContent {
			return fmt.Errorf("added_tokens[%d]: content of %d bytes; it must have 1 to %d", i, len(a.Content), maxContent)
		}
		content := a.Content
		if a.Normalized {
			// The reference looks for, and decodes to, the normalized text.
			for _, form := range t.normalize {
				content = form.String(content)
			}
		}
		if err := t.setBytes("added_tokens", content, a.ID); err != nil {
			return err
		}
		t.byText[a.Content] = a.ID
		if a.Special {
			t.special[a.ID] = true
		}
		token := &addedToken{id: a.ID, content: content, singleWord: a.SingleWord, stripLeft: a.LStrip, stripRight: a.RStrip}
		if a.Normalized {
			t.normalized.insert(token)
		} else {
			t.raw.insert(token)
		}
	}
	return nil
}

// buildTemplate finds the special tokens that the post-processor puts around
// one sequence.
func (t *Tokenizer) buildTemplate(file *tokenizerJSON) error {
	if file.PostProcessor == nil {
		return nil
	}
	return t.appendTemplate(file.PostProcessor)
}

func (t *Tokenizer) appendTemplate(p *postProcessorJSON) error {
	switch p.Type {
	case "ByteLevel":
		return nil
	case "Sequence":
		for i := range p.Processors {
			if err := t.appendTemplate(&p.Processors[i]); err != nil {
				return err
			}
		}
		return nil
	case "TemplateProcessing":
	default:
		return fmt.Errorf("post_processor: type %q is not supported; byte-level BPE models use ByteLevel, TemplateProcessing and Sequence", p.Type)
	}
	side := &t.prefix
	for _, item := range p.Single {
		if item.Sequence != nil {
			side = &t.suffix
		}
		if item.SpecialToken == nil {
			continue
		}
		id, ok := t.byText[item.SpecialToken.ID]
		if !ok {
			return fmt.Errorf("post_processor: special token %.40q is not among added_tokens", item.SpecialToken.ID)
		}
		*side = append(*side, id)
	}
	return nil
}
