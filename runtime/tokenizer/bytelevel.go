// SPDX-License-Identifier: Apache-2.0

package tokenizer

// Byte-level vocabularies write each byte as one printable rune: printable
// Latin-1 bytes as themselves, the others as U+0100 and following, in byte
// order (GPT-2's bytes_to_unicode,
// https://github.com/openai/gpt-2/blob/master/src/encoder.py).
var runeToByte = func() map[rune]byte {
	table := make(map[rune]byte, 256)
	shifted := rune(0x100)
	for b := range 256 {
		if b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE {
			table[rune(b)] = byte(b)
			continue
		}
		table[shifted] = byte(b)
		shifted++
	}
	return table
}()

// fromByteLevel returns the bytes that a vocabulary entry stands for; false
// when a rune of it is outside the table.
func fromByteLevel(token string) ([]byte, bool) {
	out := make([]byte, 0, len(token))
	for _, r := range token {
		b, ok := runeToByte[r]
		if !ok {
			return nil, false
		}
		out = append(out, b)
	}
	return out, true
}

// decodedBytes is what a token contributes to decoded text. A token with any
// rune outside the table (added tokens such as "<｜User｜>") stands for its
// own UTF-8, as in the reference's ByteLevel decoder.
func decodedBytes(token string) []byte {
	if b, ok := fromByteLevel(token); ok {
		return b
	}
	return []byte(token)
}
