// SPDX-License-Identifier: Apache-2.0

// Command probe is what the local cluster's own test runs in pods: it serves a
// page, fetches one, looks up a name, or shows a file.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// patience is how long get and lookup retry: a new Service needs a moment until
// all nodes know it.
const patience = 30 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: probe serve ADDRESS | get URL | lookup NAME | cat FILE")
	}
	switch args[0] {
	case "serve":
		handler := func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello %s\n", r.RemoteAddr) }
		server := &http.Server{Addr: args[1], Handler: http.HandlerFunc(handler), ReadHeaderTimeout: time.Second}
		return server.ListenAndServe()
	case "get":
		return retry(func() (string, error) { return get(args[1]) })
	case "lookup":
		return retry(func() (string, error) {
			addrs, err := net.DefaultResolver.LookupHost(context.Background(), args[1])
			return fmt.Sprintln(addrs), err
		})
	case "cat":
		data, err := os.ReadFile(args[1])
		fmt.Print(string(data))
		return err
	}
	return fmt.Errorf("unknown command %q", args[0])
}

func get(url string) (string, error) {
	client := http.Client{Timeout: 2 * time.Second}
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return string(body), err
}

func retry(f func() (string, error)) error {
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		out, err := f()
		if err == nil {
			fmt.Print(out)
			return nil
		}
		if time.Now().After(end) {
			return err
		}
	}
}
