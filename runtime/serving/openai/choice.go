// SPDX-License-Identifier: Apache-2.0

package openai

import (
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/findep/findep-operator/runtime/agent/agentpb"
	"github.com/findep/findep-operator/runtime/serving"
	"github.com/findep/findep-operator/runtime/tokenizer"
)

// stopMatcher looks for stop strings in text that arrives in parts. What it
// lets through never holds any part of the stop string that ended the text.
// The occurrence that is complete first counts, and of those that end together
// the one that starts first, so the result does not depend on the parts.
type stopMatcher struct {
	stops []string
	// held is a suffix of the text that may begin a stop string.
	held string
}

// push adds text; stopped is true when a stop string is complete, and out then
// ends just before it.
func (m *stopMatcher) push(text string) (out string, stopped bool) {
	text = m.held + text
	start, end := -1, -1
	for _, s := range m.stops {
		i := strings.Index(text, s)
		if i < 0 {
			continue
		}
		if e := i + len(s); end < 0 || e < end || e == end && i < start {
			start, end = i, e
		}
	}
	if end >= 0 {
		m.held = ""
		return text[:start], true
	}
	n := 0
	for _, s := range m.stops {
		for k := min(len(s)-1, len(text)); k > n; k-- {
			if strings.HasSuffix(text, s[:k]) {
				n = k
			}
		}
	}
	m.held = text[len(text)-n:]
	return text[:len(text)-n], false
}

// flush returns what was held back, once no more text comes.
func (m *stopMatcher) flush() string {
	held := m.held
	m.held = ""
	return held
}

// group is the choices of one HTTP request; its lock guards them.
type group struct {
	sync.Mutex
	// changed has one entry when a choice may have something new.
	changed chan struct{}
	choices []*choice
}

// choice collects one completion. It is the Sink of its sequence.
type choice struct {
	group    *group
	tok      *tokenizer.Tokenizer
	decoder  *tokenizer.Decoder
	stops    stopMatcher
	logprobs bool

	// Guarded by group.
	text string
	// reports holds the log probabilities not yet taken.
	reports   []tokenReport
	generated int
	// runes counts the decoded text, for the offsets of log probabilities.
	runes  int
	finish serving.FinishReason
	err    error
}

var _ serving.Sink = (*choice)(nil)

func newGroup() *group { return &group{changed: make(chan struct{}, 1)} }

func (g *group) add(tok *tokenizer.Tokenizer, stops []string, withLogprobs bool) *choice {
	c := &choice{group: g, tok: tok, decoder: tok.NewDecoder(), stops: stopMatcher{stops: stops}, logprobs: withLogprobs}
	g.choices = append(g.choices, c)
	return c
}

func (g *group) notify() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// Token implements serving.Sink.
func (c *choice) Token(t serving.Token) (stop bool) {
	c.group.Lock()
	defer c.group.Unlock()
	c.generated++
	if t.Stop {
		return false
	}
	part := c.decoder.Next(t.GetToken())
	if c.logprobs {
		c.reports = append(c.reports, tokenReport{offset: c.runes, TokenLogprob: &agentpb.TokenLogprob{Token: t.GetToken(), Logprob: t.GetLogprob()}, top: t.GetTop()})
	}
	c.runes += utf8.RuneCountInString(part)
	out, stopped := c.stops.push(part)
	c.text += out
	if stopped {
		// What the decoder holds back comes after the stop string.
		c.decoder = c.tok.NewDecoder()
	}
	if c.text != "" {
		c.group.notify()
	}
	return stopped
}

// End implements serving.Sink.
func (c *choice) End(reason serving.FinishReason, err error) {
	c.group.Lock()
	defer c.group.Unlock()
	out, stopped := c.stops.push(c.decoder.Flush())
	c.text += out
	if stopped {
		reason = serving.FinishStop
	} else {
		c.text += c.stops.flush()
	}
	c.finish, c.err = reason, err
	c.group.notify()
}

// part is what a choice has to say since the last time.
type part struct {
	text    string
	reports []tokenReport
	finish  serving.FinishReason
	err     error
}

// tokenReport is the log probability of a token and of the most likely ones at
// its place. offset counts runes of the completion before it.
type tokenReport struct {
	*agentpb.TokenLogprob
	offset int
	top    []*agentpb.TokenLogprob
}

// reason is nil until the choice has ended.
func (p *part) reason() *serving.FinishReason {
	if p.finish == "" {
		return nil
	}
	return &p.finish
}

// add appends what came later.
func (p *part) add(later part) {
	p.text += later.text
	p.reports = append(p.reports, later.reports...)
	p.finish, p.err = later.finish, later.err
}

// take returns the news of a choice; ok is false when there are none. The
// group's lock is held.
func (c *choice) take() (p part, ok bool) {
	if c.text == "" && c.finish == "" {
		return part{}, false
	}
	p = part{text: c.text, reports: c.reports, finish: c.finish, err: c.err}
	c.text, c.reports = "", nil
	return p, true
}
