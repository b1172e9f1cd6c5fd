// SPDX-License-Identifier: Apache-2.0

// Package compat tests that the OpenAI client library works against this
// project's server. It is a package of its own so that the library, which is
// large, is compiled for this test alone.
package compat
