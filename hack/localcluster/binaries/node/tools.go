// SPDX-License-Identifier: Apache-2.0

//go:build tools

// Package node pins etcd, containerd with its shim and client, and kwok for
// the local cluster; see the parent package.
package node

import (
	_ "github.com/containerd/containerd/v2/cmd/containerd"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
	_ "github.com/containerd/containerd/v2/cmd/ctr"
	_ "go.etcd.io/etcd/server/v3"
	_ "sigs.k8s.io/kwok/cmd/kwok"
)
