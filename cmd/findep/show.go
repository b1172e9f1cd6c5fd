// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/findep/findep-operator/api/v1alpha1"
)

// maxInputBytes bounds what is read from standard input.
const maxInputBytes = 16 << 20

func newShow() *cobra.Command {
	show := &cobra.Command{
		Use:   "show",
		Short: "Print an API answer or a MoEDeployment, read from standard input, for people",
	}
	var prompt string
	completion := &cobra.Command{
		Use:   "completion",
		Short: "Print the text of a /v1/completions answer after its prompt",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return showCompletion(cmd.OutOrStdout(), cmd.InOrStdin(), prompt)
		},
	}
	completion.Flags().StringVar(&prompt, "prompt", "", "the prompt to print before the completion")
	deployment := &cobra.Command{
		Use:   "deployment",
		Short: "Print the split, the schedule and predicted beside measured figures (kubectl get moed NAME -o json)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return showDeployment(cmd.OutOrStdout(), cmd.InOrStdin())
		},
	}
	show.AddCommand(completion, deployment)
	return show
}

func showCompletion(out io.Writer, in io.Reader, prompt string) error {
	var answer struct {
		Choices []struct {
			Text         string `json:"text"`
			FinishReason string `json:"finish_reason"`
		} `json:"choices"`
		Usage struct {
			PromptTokens     int `json:"prompt_tokens"`
			CompletionTokens int `json:"completion_tokens"`
		} `json:"usage"`
	}
	if err := json.NewDecoder(io.LimitReader(in, maxInputBytes)).Decode(&answer); err != nil {
		return usageError{fmt.Errorf("standard input is not a completion: %w", err)}
	}
	if len(answer.Choices) == 0 {
		return usageError{fmt.Errorf("standard input has no choices; pass the body of a /v1/completions answer")}
	}
	c := answer.Choices[0]
	fmt.Fprintf(out, "  prompt      %s\n  completion  %s\n  tokens      %d in, %d out (finished by %s)\n", prompt,
		strings.ReplaceAll(strings.TrimSpace(c.Text), "\n", "\n              "),
		answer.Usage.PromptTokens, answer.Usage.CompletionTokens, c.FinishReason)
	return nil
}

func showDeployment(out io.Writer, in io.Reader) error {
	var d v1alpha1.MoEDeployment
	if err := json.NewDecoder(io.LimitReader(in, maxInputBytes)).Decode(&d); err != nil {
		return usageError{fmt.Errorf("standard input is not a MoEDeployment: %w", err)}
	}
	if d.Kind != "MoEDeployment" {
		return usageError{fmt.Errorf("standard input is of kind %q, not a MoEDeployment; pass the output of kubectl get moed NAME -o json", d.Kind)}
	}
	return printDeployment(out, &d)
}
