// SPDX-License-Identifier: Apache-2.0

// Command shares measures what part of a device's own peak each operation
// reaches: products and experts of the largest rate of square products, and what
// is bound by memory of the largest rate at which rows are copied. The goals are
// those of docs/cuda.md. It asserts nothing; the table is for the record.
//
//	shares --backend cuda [--dtype bf16] [--small]
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/findep/findep-operator/runtime/backend"
	"github.com/findep/findep-operator/runtime/backend/native"
)

func main() {
	name := flag.String("backend", native.CUDA, "kernels to measure: cuda or cpu")
	dtype := flag.String("dtype", "bf16", "type of the weights: bf16 or f32")
	quick := flag.Bool("small", false, "small sizes, to see that everything runs")
	threads := flag.Int("threads", 1, "host threads of the CPU backend")
	flag.Parse()
	if err := run(*name, *dtype, *quick, *threads, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "shares:", err)
		os.Exit(1)
	}
}

func run(name, dtype string, quick bool, threads int, out io.Writer) (err error) {
	weights, known := map[string]backend.DType{"bf16": backend.BF16, "f32": backend.F32}[dtype]
	if !known {
		return fmt.Errorf("--dtype is %q; use bf16 or f32", dtype)
	}
	s := full
	if quick {
		s = small
	}
	dev, err := backend.Open(name, backend.Options{})
	if err != nil {
		return err
	}
	defer func() {
		if closed := dev.Close(); err == nil {
			err = closed
		}
	}()
	samples, err := Measure(dev, weights, s, threads, time.Now)
	if err != nil {
		return err
	}
	list, peaks, err := Shares(samples)
	if err != nil {
		return err
	}
	return Print(out, dev.Name(), list, peaks)
}
