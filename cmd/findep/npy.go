// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
)

// writeLogits writes little-endian fp32 rows as a NumPy array, format version
// 1.0: magic, version, header length, a Python dict padded to 64 bytes, data.
// See https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
func writeLogits(path string, data []byte, columns int) error {
	rows := len(data) / (4 * columns)
	if rows*4*columns != len(data) || rows == 0 {
		return fmt.Errorf("logits: %d bytes are not rows of %d fp32", len(data), columns)
	}
	dict := fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }", rows, columns)
	const prefix, align = 10, 64
	padding := (align - (prefix+len(dict)+1)%align) % align
	header := dict + string(bytes.Repeat([]byte{' '}, padding)) + "\n"
	var b bytes.Buffer
	b.WriteString("\x93NUMPY\x01\x00")
	_ = binary.Write(&b, binary.LittleEndian, uint16(len(header)))
	b.WriteString(header)
	b.Write(data)
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("logits: %w", err)
	}
	return nil
}
