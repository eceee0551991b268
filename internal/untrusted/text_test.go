package untrusted_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/mlxctl/mlxctl/internal/untrusted"
)

func TestLine(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"mini":                              "mini",
		"  Fred’s \t Mac\r\n":               "Fred’s   Mac",
		"a\x1b[2J\x1b[31mred\x1b[0m":        "ared",
		"\x1b]0;title\x07b":                 "b",
		"\u009b31mc":                        "31mc",
		"a\x00b\x7fc":                       "abc",
		"one\ntwo":                          "one two",
		"abc\u202edef\u200bghi\ufeff":       "abcdefghi",
		"one\u2028two":                      "one two",
		"broken \xff":                       "broken \uFFFD",
		"0123456789abcdefghi":               "0123456789abcdef",
		"0123456789abcdé":                   "0123456789abcdé",
		"0123456789abcdeé":                  "0123456789abcde",
		strings.Repeat("\x1b[31m", 3) + "x": "x",
		"":                                  "",
	} {
		if got := untrusted.Line(in, 16); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

func TestMarkedShowsThatThereWasSomething(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a\x1b[2J\u009bb\tc\x7f é":              "a?[2J?b?c? é",
		"one\ntwo":                              "one?two",
		"abc\u202edef\u200bghi\ufeff":           "abc?def?ghi?",
		"one\u2028two\u2029three":               "one?two?three",
		"Jörg’s Mac mini – 模型 \U0001F468\u0301": "Jörg’s Mac mini – 模型 \U0001F468\u0301",
		"\U0001F468\u200d\U0001F4BB":            "\U0001F468?\U0001F4BB", // a joined emoji falls into its parts
		"no-break\u00a0space":                   "no-break\u00a0space",
	} {
		if got := untrusted.Marked(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

func FuzzMarked(f *testing.F) {
	f.Add("a\x1b[2J\u202e")
	f.Add("é\xff\u2028\u200b")
	f.Fuzz(func(t *testing.T, s string) {
		got := untrusted.Marked(s)
		isUnseen := func(r rune) bool { return !unicode.IsGraphic(r) || unicode.Is(unicode.Cf, r) }
		if !utf8.ValidString(got) || strings.ContainsFunc(got, isUnseen) || strings.ContainsFunc(got, untrusted.IsControl) {
			t.Errorf("%q: %q", s, got)
		}
		if utf8.RuneCountInString(got) != utf8.RuneCountInString(s) || untrusted.Marked(got) != got {
			t.Errorf("%q: %q is marked otherwise", s, got)
		}
	})
}

func FuzzLine(f *testing.F) {
	f.Add("a\x1b[2J", 8)
	f.Add("é\xff\u202e", 3)
	f.Fuzz(func(t *testing.T, s string, most int) {
		if most < 0 || most > 1<<10 {
			return
		}
		got := untrusted.Line(s, most)
		if len(got) > most || !utf8.ValidString(got) || strings.ContainsFunc(got, untrusted.IsControl) {
			t.Errorf("%q, at most %d: %q", s, most, got)
		}
	})
}
