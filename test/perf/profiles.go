// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
)

// profileSeconds is how much of the beginning a CPU profile covers.
const profileSeconds = 15

// takeProfiles saves CPU profiles of the API server, the scheduler, the operator and
// this program over the same seconds, and one of the operator's heap after them.
func (b *bench) takeProfiles(ctx context.Context, s subject) error {
	if err := os.MkdirAll(b.profile, 0o755); err != nil {
		return err
	}
	server := &http.Client{}
	var err error
	if server.Transport, err = rest.TransportFor(b.plane.config(userHarness)); err != nil {
		return err
	}
	// The scheduler signs its certificate itself, and is on loopback.
	scheduler := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // see above
	var group errgroup.Group
	cpu := func(name, address string, client *http.Client) {
		url := fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", address, profileSeconds)
		group.Go(func() error { return save(ctx, client, url, filepath.Join(b.profile, name+".cpu")) })
	}
	cpu("apiserver", b.plane.server, server)
	group.Go(func() error { return profileSelf(ctx, filepath.Join(b.profile, "harness.cpu")) })
	cpu("scheduler", fmt.Sprintf("https://127.0.0.1:%d", b.plane.scheduler), scheduler)
	f, ok := s.(*findep)
	if !ok {
		return group.Wait()
	}
	manager := fmt.Sprintf("http://127.0.0.1:%d", f.pprof)
	cpu("manager", manager, http.DefaultClient)
	return errors.Join(group.Wait(), save(ctx, http.DefaultClient, manager+"/debug/pprof/heap", filepath.Join(b.profile, "manager.heap")))
}

// profileSelf profiles this program.
func profileSelf(ctx context.Context, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return errors.Join(err, f.Close())
	}
	select {
	case <-ctx.Done():
	case <-time.After(profileSeconds * time.Second):
	}
	pprof.StopCPUProfile()
	return f.Close()
}

// save downloads a file.
func save(ctx context.Context, client *http.Client, url, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(req)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(answer.Body)
	err = errors.Join(err, answer.Body.Close())
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.200s", url, answer.Status, b)
	}
	return errors.Join(err, os.WriteFile(path, b, 0o644))
}
