// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/client-go/rest"
)

// requestTimeout bounds one request; it is long enough for one whose instance is
// formed again meanwhile.
const requestTimeout = 60 * time.Second

// target is what requests are sent to, through the API server's proxy, which
// needs neither a port-forward nor a route into the cluster.
type target struct{ resource, name, model string }

// service is all instances of a deployment, as its Service chooses among them.
func service(deployment string) target { return target{"services", deployment, deployment} }

// leader is one instance of a deployment.
func leader(deployment, pod string) target { return target{"pods", pod, deployment} }

// post asks for r's greedy continuation.
func (t target) post(r reference, more map[string]any) (*rest.Request, error) {
	request := map[string]any{
		"model": t.model, "prompt": r.Prompt, "max_tokens": len(r.GreedyTokens), "temperature": 0, "ignore_eos": true,
	}
	for k, v := range more {
		request[k] = v
	}
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	return clientset.CoreV1().RESTClient().Post().Namespace(namespace).Resource(t.resource).
		Name("http:"+t.name+":8000").SubResource("proxy").Suffix("v1", "completions").
		SetHeader("Content-Type", "application/json").Body(body), nil
}

// piece is what a response or an event of a stream holds.
type piece struct {
	Choices []struct {
		Text string `json:"text"`
	} `json:"choices"`
	Usage *struct {
		CompletionTokens int `json:"completion_tokens"`
	} `json:"usage"`
	Error json.RawMessage `json:"error"`
}

// ask returns the answer in one piece.
func (t target) ask(ctx context.Context, r reference) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request, err := t.post(r, nil)
	if err != nil {
		return "", err
	}
	raw, err := request.DoRaw(ctx)
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, raw)
	}
	var answer piece
	if err := json.Unmarshal(raw, &answer); err != nil || len(answer.Choices) != 1 {
		return "", fmt.Errorf("unexpected answer %s: %w", raw, err)
	}
	return answer.Choices[0].Text, nil
}

// stream returns the answer that came in pieces. A stream that breaks off, or
// that does not hold as many tokens as were asked for, is an error.
func (t target) stream(ctx context.Context, r reference, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	request, err := t.post(r, map[string]any{"stream": true, "stream_options": map[string]any{"include_usage": true}})
	if err != nil {
		return "", err
	}
	body, err := request.Stream(ctx)
	if err != nil {
		return "", err
	}
	defer body.Close()
	var text strings.Builder
	tokens := -1
	events := bufio.NewScanner(body)
	for events.Scan() {
		data, is := strings.CutPrefix(events.Text(), "data: ")
		if !is {
			continue
		}
		if data == "[DONE]" {
			if tokens != len(r.GreedyTokens) {
				return text.String(), fmt.Errorf("a stream of %d tokens, not %d", tokens, len(r.GreedyTokens))
			}
			return text.String(), nil
		}
		var p piece
		if err := json.Unmarshal([]byte(data), &p); err != nil || p.Error != nil {
			return text.String(), fmt.Errorf("event %s: %w", data, err)
		}
		for _, c := range p.Choices {
			text.WriteString(c.Text)
		}
		if p.Usage != nil {
			tokens = p.Usage.CompletionTokens
		}
	}
	return text.String(), errors.Join(errors.New("the stream broke off"), events.Err())
}

// completion asks a deployment.
func completion(ctx context.Context, name string, r reference) (string, error) {
	return service(name).ask(ctx, r)
}

// clients send one request after the other, none of them twice, until they are
// stopped, and keep what went wrong.
type clients struct {
	stop   context.CancelFunc
	done   sync.WaitGroup
	mu     sync.Mutex
	sent   int
	failed []string
}

// newClients are two, of which one streams.
func newClients(to target) *clients {
	ctx, stop := context.WithCancel(context.Background())
	c := &clients{stop: stop}
	prompts := references()
	for worker, ask := range []func(context.Context, reference) (string, error){
		to.ask,
		func(ctx context.Context, r reference) (string, error) { return to.stream(ctx, r, requestTimeout) },
	} {
		c.done.Go(func() {
			for n := worker; ctx.Err() == nil; n++ {
				r := prompts[n%len(prompts)]
				text, err := ask(context.WithoutCancel(ctx), r)
				c.mu.Lock()
				c.sent++
				if err != nil || text != r.GreedyText {
					c.failed = append(c.failed, fmt.Sprintf("%s: prompt %s: got %q (%v)", time.Now().Format(time.TimeOnly), r.ID, text, err))
				}
				c.mu.Unlock()
			}
		})
	}
	return c
}

// expectNoLoss stops the clients.
func (c *clients) expectNoLoss() {
	GinkgoHelper()
	c.stop()
	c.done.Wait()
	GinkgoWriter.Printf("%d requests\n", c.sent)
	Expect(c.sent).To(BeNumerically(">", 0))
	Expect(c.failed).To(BeEmpty())
}
