// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// checkTimeout bounds one request, checkAttempts the number of them: a Service
// takes a moment to know of a pod that has just become ready.
const (
	checkTimeout  = 5 * time.Second
	checkAttempts = 10
)

// checkCommand asks a URL for an answer. The image has no shell that could, and
// "helm test" needs something to run.
func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check URL",
		Short: "Ask a URL until it answers with 200; used by helm test",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return check(c, args[0], time.Second)
		},
	}
}

func check(c *cobra.Command, url string, pause time.Duration) (err error) {
	client := http.Client{Timeout: checkTimeout}
	for range checkAttempts {
		if err = ask(c, &client, url); err == nil {
			fmt.Fprintln(c.OutOrStdout(), url, "answers")
			return nil
		}
		select {
		case <-c.Context().Done():
			return c.Context().Err()
		case <-time.After(pause):
		}
	}
	return err
}

func ask(c *cobra.Command, client *http.Client, url string) error {
	q, err := http.NewRequestWithContext(c.Context(), http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(q)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers with %s", url, answer.Status)
	}
	return nil
}
