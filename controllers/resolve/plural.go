// SPDX-License-Identifier: Apache-2.0

package resolve

import "fmt"

// Plural counts things in words for people: 1 GPU, 2 GPUs. The noun is one that
// forms its plural with an s.
func Plural[N ~int | ~int32 | ~int64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
