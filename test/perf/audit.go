// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// auditEvent is the part of a line of the audit log that is counted.
type auditEvent struct {
	Verb string `json:"verb"`
	User struct {
		Username string `json:"username"`
	} `json:"user"`
	ObjectRef struct {
		Resource    string `json:"resource"`
		Subresource string `json:"subresource"`
	} `json:"objectRef"`
}

// calls counts API requests by "verb resource/subresource".
type calls map[string]int

var reads = []string{"get", "list", "watch"}

// writes is the number of requests that may change something.
func (c calls) writes() int {
	n := 0
	for what, count := range c {
		if verb, _, _ := strings.Cut(what, " "); !slices.Contains(reads, verb) {
			n += count
		}
	}
	return n
}

// total is the number of all requests.
func (c calls) total() int {
	n := 0
	for _, count := range c {
		n += count
	}
	return n
}

// minus is what was added since before.
func (c calls) minus(before calls) calls {
	rest := calls{}
	for what, n := range c {
		if n -= before[what]; n != 0 {
			rest[what] = n
		}
	}
	return rest
}

// readAudit counts the requests of each user in an audit log.
func readAudit(path string) (map[string]calls, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return countAudit(f)
}

func countAudit(log io.Reader) (map[string]calls, error) {
	byUser := map[string]calls{}
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e auditEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		what := e.Verb + " " + e.ObjectRef.Resource
		if e.ObjectRef.Subresource != "" {
			what += "/" + e.ObjectRef.Subresource
		}
		if byUser[e.User.Username] == nil {
			byUser[e.User.Username] = calls{}
		}
		byUser[e.User.Username][what]++
	}
	return byUser, lines.Err()
}
