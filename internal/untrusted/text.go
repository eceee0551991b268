// Package untrusted makes text harmless that comes from elsewhere: from hosts, from adverts, from whoever asks to join. Such
// text must not drive a terminal, begin a line of its own, hide or turn what stands beside it, or be longer than its place.
package untrusted

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
)

// Line makes one line of text that is taken in: no escape sequences, no control, invisible or direction characters, no space
// at its ends, no broken UTF-8, and nothing beyond most bytes.
func Line(s string, most int) string {
	if len(s) > 4*most { // escape sequences take room, too
		s = s[:4*most]
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsGraphic(r):
			return -1
		}
		return r
	}, ansi.Strip(strings.ToValidUTF8(s, "\uFFFD")))
	if s = strings.TrimSpace(s); len(s) > most {
		for most > 0 && !utf8.RuneStart(s[most]) {
			most--
		}
		s = s[:most]
	}
	return s
}

// Marked makes text safe to print that nobody has taken in before, and leaves to be seen that there was something: each
// character that is not seen itself, or that turns or breaks the line, is a question mark. That goes for the joiner inside of
// some emoji as well: they fall into their parts, which does no harm, while an invisible character in a name would let one pass
// for another.
func Marked(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) {
			return '?'
		}
		return r
	}, s)
}

// IsControl says whether a terminal takes a character for an order, line ends and tabs included.
func IsControl(r rune) bool { return r < ' ' || (r >= 0x7f && r < 0xa0) }
