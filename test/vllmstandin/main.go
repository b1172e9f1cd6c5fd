// SPDX-License-Identifier: Apache-2.0

// Command vllmstandin takes the place of vLLM with its attention-FFN
// disaggregation plugin in tests, on machines without a GPU. It computes nothing,
// and holds whoever starts it to the contract of the original (docs/vllm.md): it
// refuses arguments that vLLM or the plugin would refuse, listens on the ports that
// its rank has, reaches every port that it would need, and answers /health and
// /v1/completions only when every rank of the world has. As with the original, a
// rank that is lost takes all others with it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	c, err := parse(os.Args[1:])
	if err == nil {
		err = checkEnvironment(c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "vllm:", err)
		os.Exit(2)
	}
	if err := run(ctx, c); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "vllm:", err)
		os.Exit(1)
	}
}

// run serves until the context ends or a rank is lost.
func run(ctx context.Context, c *config) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	formed := make(chan struct{})
	if !c.headless {
		server, err := serve(c, formed)
		if err != nil {
			return err
		}
		defer server.Close()
	}
	world, err := listen(ctx, c)
	if err != nil {
		return err
	}
	defer world.close()
	go world.admit(ctx, cancel)
	conn, err := world.join(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	fmt.Printf("%s rank %d is world rank %d of %d and has reached all ports\n", c.afd.Role, c.roleRank, c.worldRank(), c.worldSize())
	close(formed)
	go func() {
		// The first rank sends nothing more: what comes is the end.
		_, err := conn.Read(make([]byte, 1))
		cancel(fmt.Errorf("the world has ended: %w", err))
	}()
	<-ctx.Done()
	return context.Cause(ctx)
}

// checkEnvironment refuses surroundings in which vLLM does not start.
func checkEnvironment(c *config) error {
	if _, err := os.Stat(c.model + "/config.json"); err != nil {
		return fmt.Errorf("the model: %w", err)
	}
	for _, name := range []string{"HOME", "USER", "VLLM_HOST_IP"} {
		if os.Getenv(name) == "" {
			return fmt.Errorf("the environment has no %s", name)
		}
	}
	for _, directory := range []string{os.Getenv("HOME"), "/dev/shm"} {
		f, err := os.CreateTemp(directory, "vllm")
		if err != nil {
			return fmt.Errorf("a directory for caches: %w", err)
		}
		_, _ = f.Close(), os.Remove(f.Name())
	}
	return nil
}
