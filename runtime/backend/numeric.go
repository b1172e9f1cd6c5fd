// SPDX-License-Identifier: Apache-2.0

package backend

import "math"

// BF16ToFloat32 widens bfloat16 bits; it is exact.
func BF16ToFloat32(bits uint16) float32 { return math.Float32frombits(uint32(bits) << 16) }

// Float32ToBF16 rounds to the nearest bfloat16, ties to even. NaN stays NaN.
func Float32ToBF16(v float32) uint16 {
	bits := math.Float32bits(v)
	if v != v {
		return uint16(bits>>16) | 0x40
	}
	return uint16((bits + 0x7fff + (bits>>16)&1) >> 16)
}

// F16ToFloat32 widens IEEE 754 binary16 bits; it is exact.
func F16ToFloat32(bits uint16) float32 {
	sign := uint32(bits>>15) << 31
	exponent := uint32(bits>>10) & 0x1f
	fraction := uint32(bits) & 0x3ff
	switch exponent {
	case 0:
		v := float32(fraction) / (1 << 24)
		if sign != 0 {
			v = -v
			if fraction == 0 {
				return math.Float32frombits(sign)
			}
		}
		return v
	case 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | fraction<<13)
	default:
		return math.Float32frombits(sign | (exponent+112)<<23 | fraction<<13)
	}
}

// Float32ToF16 rounds to the nearest binary16, ties to even; what is too large
// becomes infinite.
func Float32ToF16(v float32) uint16 {
	bits := math.Float32bits(v)
	sign := uint16(bits>>16) & 0x8000
	if v != v {
		return sign | 0x7e00
	}
	abs := math.Abs(float64(v))
	switch {
	case abs >= 65520:
		return sign | 0x7c00
	case abs < 1.0/(1<<14):
		// Subnormal: a multiple of 2^-24, and 1024 of them is the smallest
		// normal number, whose bits follow.
		return sign | uint16(math.RoundToEven(abs*(1<<24)))
	default:
		exponent := bits>>23&0xff - 112
		fraction := bits & 0x7fffff
		half := exponent<<10 | fraction>>13
		rest := fraction & 0x1fff
		if rest > 0x1000 || rest == 0x1000 && half&1 == 1 {
			half++
		}
		return sign | uint16(half)
	}
}
