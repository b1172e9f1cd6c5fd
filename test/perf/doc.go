// SPDX-License-Identifier: Apache-2.0

// Command perf measures the operator at scale: thousands of pods on a thousand
// nodes that only exist in the API server. It starts a control plane of its own
// (etcd without fsync, kube-apiserver without priority and fairness,
// kube-scheduler, and KWOK in place of kubelets), applies many MoEDeployments at
// once, and reports how fast their pods run, what the manager wrote, and what it
// cost. The same machine, nodes and settings then carry other controllers, or a
// client that only creates pods, which is the ceiling of the control plane.
//
// Two things are made up. KWOK reports pods as running and ready as soon as they
// have a node, and the harness ends those that are deleted, at once (kubelet.go).
// And since no sidecar runs, the harness answers in place of every
// leader: pods get addresses out of 127.64.0.0/10, which all lead back to this
// process, and it proves the identity of the instance whose pod was called with
// the certificate that the operator itself issued (leader.go). The manager is
// the real program, unchanged, over real mutual TLS.
//
// The figures depend on the machine. Compare subjects within one run; recorded
// ranges with their spread are in ranges.yaml.
package main
