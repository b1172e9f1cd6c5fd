// SPDX-License-Identifier: Apache-2.0

//go:build tools

// Package coredns pins the DNS server of the local cluster; see the parent
// package.
package coredns

import _ "github.com/coredns/coredns"
