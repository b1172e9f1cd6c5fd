// SPDX-License-Identifier: Apache-2.0

// Command pause is the sandbox process of every pod in the local cluster: it
// holds the pod's namespaces open, reaps processes that are orphaned inside a
// shared PID namespace, and exits on SIGTERM.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGTERM, syscall.SIGINT)
	for s := range signals {
		if s != syscall.SIGCHLD {
			return
		}
		// Signals of the same kind merge, so one SIGCHLD may stand for many
		// children.
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if err != nil || pid <= 0 {
				break
			}
		}
	}
}
