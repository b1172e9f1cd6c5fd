// SPDX-License-Identifier: Apache-2.0

package tokenizer

import (
	"encoding/json"
	"fmt"
	"time"
	"unicode"

	"github.com/dlclark/regexp2/v2"
)

// splitter is one stage of the pre-tokenizer. It appends the pieces of text to
// pieces; a stage sees each piece of the stage before as a text of its own, so
// `$` and lookarounds stop at its borders.
type splitter interface {
	split(pieces []string, text string) ([]string, error)
}

const (
	// maxPattern bounds the length of a pattern in a file; DeepSeek-V2's
	// tables of letters and punctuation take about 5 KB.
	maxPattern = 64 << 10
	// maxStages bounds the length of a Sequence, nested ones included.
	maxStages = 64
	// matchTimeout bounds one search. A linear pattern takes microseconds;
	// `\s+$` is quadratic in a run of spaces that does not end the text.
	matchTimeout = 2 * time.Second
	// gpt2Pattern is what ByteLevel's use_regex splits by.
	gpt2Pattern = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
)

type preTokenizerJSON struct {
	Type             string             `json:"type"`
	PreTokenizers    []preTokenizerJSON `json:"pretokenizers"`
	Pattern          json.RawMessage    `json:"pattern"`
	Behavior         string             `json:"behavior"`
	Invert           bool               `json:"invert"`
	IndividualDigits bool               `json:"individual_digits"`
	AddPrefixSpace   bool               `json:"add_prefix_space"`
	// UseRegex is true when absent.
	UseRegex *bool `json:"use_regex"`
}

// build appends the stages of p. byteLevel is set when the stage that maps
// bytes to the vocabulary's alphabet is among them; it must come last, because
// later patterns would see mapped runes.
func (p *preTokenizerJSON) build(stages []splitter, byteLevel *bool) ([]splitter, error) {
	if *byteLevel {
		return nil, fmt.Errorf("pre_tokenizer: %q follows ByteLevel, which must be the last stage", p.Type)
	}
	if len(stages) > maxStages {
		return nil, fmt.Errorf("pre_tokenizer: more than %d stages", maxStages)
	}
	switch p.Type {
	case "Sequence":
		var err error
		for i := range p.PreTokenizers {
			if stages, err = p.PreTokenizers[i].build(stages, byteLevel); err != nil {
				return nil, err
			}
		}
		return stages, nil
	case "Split":
		s, err := newPatternSplitter(p.Pattern, p.Behavior, p.Invert)
		return append(stages, s), err
	case "Digits":
		return append(stages, digitSplitter{individual: p.IndividualDigits}), nil
	case "ByteLevel":
		*byteLevel = true
		if p.AddPrefixSpace {
			return nil, fmt.Errorf("pre_tokenizer: ByteLevel with add_prefix_space is not supported")
		}
		if p.UseRegex != nil && !*p.UseRegex {
			return stages, nil
		}
		s, err := compile(gpt2Pattern, "Isolated", false)
		return append(stages, s), err
	default:
		return nil, fmt.Errorf("pre_tokenizer: type %q is not supported; byte-level BPE models use Sequence, Split, Digits and ByteLevel", p.Type)
	}
}

// patternSplitter cuts text at the matches of a pattern.
type patternSplitter struct {
	re       *regexp2.Regexp
	behavior string
	invert   bool
}

func newPatternSplitter(raw json.RawMessage, behavior string, invert bool) (splitter, error) {
	var pattern struct {
		Regex  *string `json:"Regex"`
		String *string `json:"String"`
	}
	if err := json.Unmarshal(raw, &pattern); err != nil {
		return nil, fmt.Errorf("pre_tokenizer: Split pattern: %w", err)
	}
	switch {
	case pattern.Regex != nil:
		return compile(*pattern.Regex, behavior, invert)
	case pattern.String != nil:
		return compile(regexp2.Escape(*pattern.String), behavior, invert)
	default:
		return nil, fmt.Errorf("pre_tokenizer: Split pattern %.80q has neither Regex nor String", raw)
	}
}

func compile(pattern, behavior string, invert bool) (splitter, error) {
	switch behavior {
	case "Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous":
	default:
		return nil, fmt.Errorf("pre_tokenizer: Split behavior %q is unknown", behavior)
	}
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("pre_tokenizer: a pattern of %d bytes exceeds the limit of %d", len(pattern), maxPattern)
	}
	// The reference's engine (Oniguruma, Ruby syntax) lets `^` and `$` match
	// at line breaks, which is .NET's Multiline.
	re, err := regexp2.Compile(pattern, regexp2.Multiline, regexp2.OptionMaxBacktrackingStackSize(64<<20))
	if err != nil {
		return nil, fmt.Errorf("pre_tokenizer: pattern %.80q: %w", pattern, err)
	}
	re.MatchTimeout = matchTimeout
	return &patternSplitter{re: re, behavior: behavior, invert: invert}, nil
}

// span is a byte range of a text that is a match or lies between matches.
type span struct {
	start, end int
	match      bool
}

func (s *patternSplitter) split(pieces []string, text string) ([]string, error) {
	found, err := s.re.FindAllStringIndex(text, -1)
	if err != nil {
		return nil, err
	}
	spans := make([]span, 0, 2*len(found)+1)
	done := 0
	for _, m := range found {
		if m[0] > done {
			spans = append(spans, span{done, m[0], s.invert})
		}
		if m[1] > m[0] {
			spans = append(spans, span{m[0], m[1], !s.invert})
		}
		done = m[1]
	}
	if done < len(text) {
		spans = append(spans, span{done, len(text), s.invert})
	}
	for _, p := range arrange(spans, s.behavior) {
		pieces = append(pieces, text[p.start:p.end])
	}
	return pieces, nil
}

// arrange turns spans into pieces as the reference's SplitDelimiterBehavior
// says.
func arrange(spans []span, behavior string) []span {
	out := spans[:0]
	joined := false
	for _, s := range spans {
		last := len(out) - 1
		switch behavior {
		case "Removed":
			if s.match {
				continue
			}
		case "Contiguous":
			if last >= 0 && out[last].match == s.match {
				out[last].end = s.end
				continue
			}
		case "MergedWithPrevious":
			if s.match && last >= 0 && !out[last].match {
				out[last].end, out[last].match = s.end, true
				continue
			}
		case "MergedWithNext":
			// A match waits for the next stretch; two matches in a row stay
			// two pieces.
			if !s.match && joined {
				out[last].end = s.end
				joined = false
				continue
			}
			joined = s.match
		}
		out = append(out, s)
	}
	return out
}

// digitSplitter separates numeric runes (Unicode N) from the rest, each by
// itself if individual.
type digitSplitter struct{ individual bool }

func (d digitSplitter) split(pieces []string, text string) ([]string, error) {
	start, inDigits := 0, false
	for i, r := range text {
		digit := unicode.Is(unicode.N, r)
		if i > start && (digit != inDigits || digit && d.individual) {
			pieces = append(pieces, text[start:i])
			start = i
		}
		inDigits = digit
	}
	if start < len(text) {
		pieces = append(pieces, text[start:])
	}
	return pieces, nil
}
