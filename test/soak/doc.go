// SPDX-License-Identifier: Apache-2.0

// Package soak breaks a running instance at random, many times, while clients
// use it, and checks that no request is lost and no answer is wrong.
//
// The instance is made of the programs that the pods run, one network namespace
// per pod, joined by a switch in the test's own process, so that links can be
// cut, delayed, made lossy and slow without help from the kernel. A supervisor
// plays kubelet and operator: it starts containers again and replaces pods.
//
// What counts as lost is what the product promises (docs/recovery.md): a
// request that was accepted is answered with the greedy output that the same
// instance gave before the first fault, unless the server that held the
// client's connection was killed. Then the connection ends, and the retry is
// what must succeed.
//
// The short form is part of the unit tests; `make soak` runs the long one.
package soak
