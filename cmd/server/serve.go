// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/findep/findep-operator/runtime/chattemplate"
	"github.com/findep/findep-operator/runtime/plan"
	"github.com/findep/findep-operator/runtime/serving"
	"github.com/findep/findep-operator/runtime/serving/openai"
	"github.com/findep/findep-operator/runtime/tokenizer"
)

const (
	// headerTimeout and idleTimeout bound slow and silent clients; the time
	// of a body and of each write is bounded by the handlers, because a
	// completion may rightly take long.
	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 64 << 10
	// drainPoll is how often a server that drains looks whether it is done.
	drainPoll = 20 * time.Millisecond
	// linger is for how long at least a server that drains refuses requests
	// before it stops listening.
	linger = 2 * time.Second
	// farewell is how long the last answers may take to be written.
	farewell = 3 * time.Second
)

// run serves until ctx ends, and then drains.
func run(ctx context.Context, o *options, instance *plan.Instance, listener net.Listener, log *slog.Logger) error {
	tok, err := tokenizer.Load(instance.Model.Path)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	chat, noChat := loadChat(instance.Model.Path, log)
	engine, err := serving.Dial(o.socket)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer func() { _ = engine.Close() }() // The process ends.
	metrics := serving.NewMetrics(instance.Model.Name)
	loop := serving.NewLoop(engine, serving.Config{MaxQueue: o.maxQueue, Metrics: metrics, Session: random(), Log: log})
	handler := openai.New(openai.Config{
		Model: instance.Model.Name, Tokenizer: tok, Chat: chat, NoChat: noChat, Loop: loop, Metrics: metrics,
		MaxBodyBytes: o.maxBodyBytes, Random: random, Now: time.Now, Log: log,
	})
	// The loop outlives ctx: accepted requests are still computed while the
	// server drains.
	loopCtx, stopLoop := context.WithCancel(context.WithoutCancel(ctx))
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		loop.Run(loopCtx)
	}()
	log.Info("serving", "address", listener.Addr().String(), "model", instance.Model.Name, "vocabulary", tok.VocabSize(), "socket", o.socket)
	err = serveHTTP(ctx, handler, listener, log, func(server *http.Server) error {
		loop.Drain()
		log.Info("draining", "running", loop.Status().Stats.Running, "waiting", loop.Status().Stats.Waiting, "timeout", o.drainTimeout.String())
		drainCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.drainTimeout)
		defer cancel()
		finish(drainCtx, loop)
		var late error
		if !loop.Idle() {
			late = errors.New("accepted requests were not done and end with an error")
		}
		// What is left ends now, and its clients are told before they are cut off.
		stopLoop()
		<-stopped
		closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		return errors.Join(late, server.Shutdown(closeCtx))
	})
	stopLoop()
	<-stopped
	return err
}

// finish returns when no accepted request is left or ctx ends. Meanwhile new
// ones are still answered, with a refusal that says when to come back, and for
// linger at least: it takes a moment until nobody sends this pod any.
func finish(ctx context.Context, loop *serving.Loop) {
	since := time.Now()
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	for !loop.Idle() || time.Since(since) < linger {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// loadChat reads the model's chat template. A server whose model has none, or
// one that it does not understand, still serves completions, and answers chats
// with the reason.
func loadChat(dir string, log *slog.Logger) (chat *chattemplate.Chat, why string) {
	chat, err := chattemplate.Load(dir)
	if err != nil {
		log.Error("chats will be refused", "error", err)
		return nil, err.Error()
	}
	if chat == nil {
		log.Info("the model has no chat template; chats will be refused")
	}
	return chat, ""
}

// random draws seeds and ids; crypto/rand.Read does not fail.
func random() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

// idle answers probes until ctx ends. Operators before 0.2 start a server in the
// pods of all ranks, and wait for it to be ready.
func idle(ctx context.Context, o *options, log *slog.Logger) error {
	listener, err := o.bind(ctx)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	for _, path := range []string{"/healthz", "/readyz"} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	}
	log.Info("answering probes; only rank 0 serves requests", "address", listener.Addr().String())
	return serveHTTP(ctx, mux, listener, log, func(server *http.Server) error { return server.Close() })
}

// serveHTTP serves until ctx ends and then calls shutdown.
func serveHTTP(ctx context.Context, handler http.Handler, listener net.Listener, log *slog.Logger, shutdown func(*http.Server) error) error {
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving HTTP on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	if err := shutdown(server); err != nil {
		log.Warn("requests were still open when the drain timeout passed", "error", err)
		return server.Close()
	}
	log.Info("drained")
	return nil
}
