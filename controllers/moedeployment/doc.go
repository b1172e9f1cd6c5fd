// SPDX-License-Identifier: Apache-2.0

// Package moedeployment reconciles MoEDeployments: it reads what exists
// (gather), decides what shall exist (controllers/resolve), makes it so
// (controllers/render, server-side apply), reads the leaders (observe) and
// writes one status on every way out.
//
// Nothing that must survive a restart of the operator is kept in memory, and
// nothing is decided from the operator's own earlier conditions.
package moedeployment
