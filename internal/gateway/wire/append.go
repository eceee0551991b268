package wire

import (
	"math"
	"strconv"
	"unicode/utf8"
)

// unlikely stands for a logarithm of zero, which JSON cannot say.
const unlikely = -9999.0

// AppendString appends s as a JSON string. Invalid UTF-8 becomes U+FFFD. Characters at which some readers of lines
// end a line are escaped, so that an event stays on one line for them too.
func AppendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		b := s[i]
		if b >= ' ' && b != '"' && b != '\\' && b < utf8.RuneSelf {
			i++
			continue
		}
		var escape string
		size := 1
		switch {
		case b == '"':
			escape = `\"`
		case b == '\\':
			escape = `\\`
		case b == '\n':
			escape = `\n`
		case b == '\r':
			escape = `\r`
		case b == '\t':
			escape = `\t`
		case b < ' ':
			dst = append(dst, s[start:i]...)
			dst = append(dst, '\\', 'u', '0', '0', hex[b>>4], hex[b&15])
			i++
			start = i
			continue
		default:
			size, escape = wide(s[i:])
		}
		if escape != "" {
			dst = append(dst, s[start:i]...)
			dst = append(dst, escape...)
			start = i + size
		}
		i += size
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// wide measures the character at the beginning of s, which is not ASCII, and says how to escape it, if it has to be.
func wide(s string) (size int, escape string) {
	r, size := utf8.DecodeRuneInString(s)
	switch {
	case r == utf8.RuneError && size == 1:
		return size, `\ufffd`
	case r == '\u0085':
		return size, `\u0085`
	case r == '\u2028':
		return size, `\u2028`
	case r == '\u2029':
		return size, `\u2029`
	}
	return size, ""
}

// AppendInt appends a whole number.
func AppendInt[N int | int64](dst []byte, n N) []byte { return strconv.AppendInt(dst, int64(n), 10) }

// AppendLog appends the logarithm of a probability; one that is no number is written as -9999.
func AppendLog(dst []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		f = unlikely
	}
	return strconv.AppendFloat(dst, f, 'g', -1, 64)
}

// AppendBytes appends bytes as an array of numbers; null for none.
func AppendBytes(dst, b []byte) []byte {
	if len(b) == 0 {
		return append(dst, "null"...)
	}
	dst = append(dst, '[')
	for i, x := range b {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendUint(dst, uint64(x), 10)
	}
	return append(dst, ']')
}
