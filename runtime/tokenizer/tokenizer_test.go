// SPDX-License-Identifier: Apache-2.0

package tokenizer_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/text/unicode/norm"

	"github.com/findep/findep-operator/runtime/tokenizer"
)

func parse(tb testing.TB, name, config string) *tokenizer.Tokenizer {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		tb.Fatal(err)
	}
	t, err := tokenizer.Parse(b, []byte(config))
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// TestReferenceVectors compares with what the Rust library wrote
// (testdata/make.py).
func TestReferenceVectors(t *testing.T) {
	for _, name := range []string{"deepseek-v3", "qwen3"} {
		t.Run(name, func(t *testing.T) {
			tok := parse(t, name, "")
			b, err := os.ReadFile(filepath.Join("testdata", name+".cases.json"))
			if err != nil {
				t.Fatal(err)
			}
			var cases []struct {
				Text    *string
				IDs     []int32
				Decoded string
			}
			if err := json.Unmarshal(b, &cases); err != nil {
				t.Fatal(err)
			}
			if len(cases) < 500 {
				t.Fatalf("only %d cases", len(cases))
			}
			for _, c := range cases {
				if c.Text != nil {
					ids, err := tok.EncodeSegment(*c.Text)
					if err != nil {
						t.Fatal(err)
					}
					if !slices.Equal(ids, c.IDs) {
						t.Errorf("EncodeSegment(%q) = %v, want %v", *c.Text, ids, c.IDs)
					}
				}
				if got := tok.Decode(c.IDs); got != c.Decoded {
					t.Errorf("Decode(%v) = %q, want %q", c.IDs, got, c.Decoded)
				}
			}
		})
	}
}

func TestTokensAroundAPrompt(t *testing.T) {
	const bos, eos = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
	tests := map[string]struct {
		config     string
		start, end bool
	}{
		"no configuration": {},
		"both off":         {config: `{"add_bos_token":false,"bos_token":"` + bos + `"}`},
		"bos as text":      {config: `{"add_bos_token":true,"bos_token":"` + bos + `"}`, start: true},
		"bos as object":    {config: `{"add_bos_token":true,"bos_token":{"__type":"AddedToken","content":"` + bos + `"}}`, start: true},
		"both on":          {config: `{"add_bos_token":true,"bos_token":"` + bos + `","add_eos_token":true,"eos_token":"` + eos + `"}`, start: true, end: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tok := parse(t, "deepseek-v3", tt.config)
			want, err := tok.EncodeSegment("the text")
			if err != nil {
				t.Fatal(err)
			}
			first, _ := tok.ID(bos)
			last, _ := tok.ID(eos)
			if tt.start {
				want = append([]int32{first}, want...)
			}
			if tt.end {
				want = append(want, last)
			}
			got, err := tok.Encode("the text")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Encode (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTemplateAddsOneBOS(t *testing.T) {
	b, err := os.ReadFile("testdata/deepseek-v3.json")
	if err != nil {
		t.Fatal(err)
	}
	const bos = "<｜begin▁of▁sentence｜>"
	text := strings.Replace(string(b), `"post_processor":{"type":"ByteLevel"`,
		`"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"`+bos+`","type_id":0}},{"Sequence":{"id":"A","type_id":0}}]`, 1)
	for name, config := range map[string]string{"template alone": "", "template and configuration": `{"add_bos_token":true,"bos_token":"` + bos + `"}`} {
		tok, err := tokenizer.Parse([]byte(text), []byte(config))
		if err != nil {
			t.Fatal(err)
		}
		ids, err := tok.Encode("x")
		if err != nil {
			t.Fatal(err)
		}
		if id, _ := tok.ID(bos); len(ids) != 2 || ids[0] != id {
			t.Errorf("%s: Encode = %v, want bos %d and one more", name, ids, id)
		}
	}
}

func TestDecoderHoldsBackIncompleteRunes(t *testing.T) {
	tok := parse(t, "deepseek-v3", "")
	const text = "a🙂é\u0301中"
	ids, err := tok.EncodeSegment(text)
	if err != nil {
		t.Fatal(err)
	}
	if len(ids) < 8 {
		t.Fatalf("%d tokens: the emoji is expected to take several", len(ids))
	}
	d, got := tok.NewDecoder(), ""
	for _, id := range ids {
		part := d.Next(id)
		if !utf8.ValidString(part) || strings.ContainsRune(part, utf8.RuneError) {
			t.Errorf("part %q is not whole runes", part)
		}
		got += part
	}
	if got += d.Flush(); got != text {
		t.Errorf("decoded %q, want %q", got, text)
	}
}

func TestParseErrorsNameThePart(t *testing.T) {
	b, err := os.ReadFile("testdata/deepseek-v3.json")
	if err != nil {
		t.Fatal(err)
	}
	valid := string(b)
	tests := map[string]struct{ old, new, config, want string }{
		"not JSON":           {old: valid, new: "{", want: "tokenizer.json"},
		"empty":              {old: valid, new: "{}", want: "pre_tokenizer is missing"},
		"other model":        {old: `"type":"BPE"`, new: `"type":"Unigram"`, want: `"Unigram"`},
		"negative id":        {old: `"vocab":{`, new: `"vocab":{"zzz":-1,`, want: "id -1"},
		"huge id":            {old: `"vocab":{`, new: `"vocab":{"zzz":2000000000,`, want: "id 2000000000"},
		"missing byte":       {old: `"!":0`, new: `"!!!!":0`, want: "byte 0x21"},
		"merge of unknowns":  {old: `"merges":[`, new: `"merges":[["qqq","zzz"],`, want: "model.merges[0]"},
		"merge of three":     {old: `"merges":[`, new: `"merges":["a b c",`, want: "model.merges[0]"},
		"bad pattern":        {old: `\\p{N}{1,3}`, new: `(`, want: "pattern"},
		"unknown splitter":   {old: `"type":"Split"`, new: `"type":"Metaspace"`, want: `"Metaspace"`},
		"unknown behavior":   {old: `"Isolated"`, new: `"Shuffled"`, want: `"Shuffled"`},
		"unknown normalizer": {old: `"normalizer":{"type":"Sequence"`, new: `"normalizer":{"type":"Lowercase"`, want: `"Lowercase"`},
		"config not JSON":    {config: "[", want: "tokenizer_config.json"},
		"config bad token":   {config: `{"bos_token":3}`, want: "neither a string"},
		"config unknown bos": {config: `{"bos_token":"<nowhere>"}`, want: "<nowhere>"},
		"bos without token":  {config: `{"add_bos_token":true}`, want: "no bos_token"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.old != "" && !strings.Contains(valid, tt.old) {
				t.Fatalf("the file has no %q to replace", tt.old)
			}
			_, err := tokenizer.Parse([]byte(strings.Replace(valid, tt.old, tt.new, 1)), []byte(tt.config))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestLoadWithoutFile(t *testing.T) {
	if _, err := tokenizer.Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no tokenizer.json") {
		t.Errorf("error %v", err)
	}
}

// TestTinyModel checks the checkpoint that the end-to-end tests serve against
// vectors that transformers wrote.
func TestTinyModel(t *testing.T) {
	const root = "../../test/testdata/"
	tok, err := tokenizer.Load(root + "tinymodel")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"tokenizer_cases.json", "decode_cases.json"} {
		b, err := os.ReadFile(root + "reference/" + file)
		if err != nil {
			t.Fatal(err)
		}
		var cases []struct {
			Text    *string
			IDs     []int32
			Decoded string
		}
		if err := json.Unmarshal(b, &cases); err != nil {
			t.Fatal(err)
		}
		if len(cases) < 10 {
			t.Fatalf("%s has only %d cases", file, len(cases))
		}
		for _, c := range cases {
			if c.Text != nil {
				ids, err := tok.Encode(*c.Text)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(ids, c.IDs) {
					t.Errorf("Encode(%q) = %v, want %v", *c.Text, ids, c.IDs)
				}
			}
			if got := tok.Decode(c.IDs); got != c.Decoded {
				t.Errorf("Decode(%v) = %q, want %q", c.IDs, got, c.Decoded)
			}
		}
	}
}

// TestLongPieces checks the heap against repeated application of the merges
// through short pieces: a long run of letters is one piece.
func TestLongPieces(t *testing.T) {
	tok := parse(t, "deepseek-v3", "")
	for _, unit := range []string{"a", "the", "hidden", "ations", "中文"} {
		text := strings.Repeat(unit, 40_000/len(unit))
		ids, err := tok.EncodeSegment(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := tok.Decode(ids); got != text {
			t.Errorf("%q repeated does not come back", unit)
		}
		if len(ids) >= len(text) && unit != "a" {
			t.Errorf("%q repeated: no merge applied", unit)
		}
	}
}

// TestQuadraticPatternEnds gives a pattern that is quadratic in this text: the
// answer must be an error or ids, in bounded time.
func TestQuadraticPatternEnds(t *testing.T) {
	b, err := os.ReadFile("testdata/deepseek-v3.json")
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse([]byte(strings.Replace(string(b), `\\p{N}{1,3}`, `\\s+$`, 1)), nil)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat(" ", 1<<20) + "a"
	ids, err := tok.EncodeSegment(text)
	if err == nil && tok.Decode(ids) != text {
		t.Error("neither an error nor the text")
	}
	if err != nil && !strings.Contains(err.Error(), "smaller parts") {
		t.Errorf("error %v does not say what to do", err)
	}
}

func FuzzRoundTrip(f *testing.F) {
	for _, s := range []string{"", "Hello, world!", " \n\r\n\t x  ", "<|im_end|><left>  a<one>b", "e\u0301🙂\x00", "\xff\xf0\x9f", strings.Repeat("ab", 100)} {
		f.Add(s)
	}
	deepseek, qwen := parse(f, "deepseek-v3", ""), parse(f, "qwen3", "")
	f.Fuzz(func(t *testing.T, text string) {
		for _, tok := range []*tokenizer.Tokenizer{deepseek, qwen} {
			ids, err := tok.EncodeSegment(text)
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range ids {
				if id < 0 || int(id) >= tok.VocabSize() {
					t.Fatalf("id %d of %d", id, tok.VocabSize())
				}
			}
			whole, parts := tok.Decode(ids), ""
			d := tok.NewDecoder()
			for _, id := range ids {
				parts += d.Next(id)
			}
			if parts += d.Flush(); parts != whole {
				t.Fatalf("parts give %q, the whole %q", parts, whole)
			}
			if special(tok, ids) {
				continue
			}
			want := strings.ToValidUTF8(text, "\uFFFD")
			if tok == qwen {
				want, whole = norm.NFC.String(want), norm.NFC.String(whole)
			}
			if whole != want {
				t.Fatalf("%q came back as %q", want, whole)
			}
		}
	})
}

func special(tok *tokenizer.Tokenizer, ids []int32) bool {
	return slices.ContainsFunc(ids, func(id int32) bool {
		stripped, left := tok.ID("<left>")
		other, right := tok.ID("<right>")
		return tok.IsSpecial(id) || left && id == stripped || right && id == other
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{0, 1, 2, 200, 255})
	tok := parse(f, "deepseek-v3", "")
	f.Fuzz(func(t *testing.T, b []byte) {
		d, parts := tok.NewDecoder(), ""
		ids := make([]int32, len(b))
		for i, x := range b {
			ids[i] = int32(x) * 2
			part := d.Next(ids[i])
			if !utf8.ValidString(part) {
				t.Fatalf("part %q is not UTF-8", part)
			}
			parts += part
		}
		if parts += d.Flush(); parts != tok.Decode(ids) {
			t.Fatalf("parts give %q, the whole %q", parts, tok.Decode(ids))
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"pre_tokenizer":{"type":"ByteLevel"},"decoder":{"type":"ByteLevel"},"model":{"vocab":{"a":0},"merges":["a a"]}}`), []byte(`{"bos_token":{}}`))
	f.Add([]byte(`{"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?<n>a)\\k<n>"},"behavior":"Removed"}]}}`), []byte(``))
	f.Fuzz(func(t *testing.T, definition, config []byte) {
		if tok, err := tokenizer.Parse(definition, config); err == nil {
			_, _ = tok.Encode("some text")
		}
	})
}
