package untrusted_test

import (
	"strings"
	"testing"
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
	if got := untrusted.Marked("a\x1b[2J\u009bb\tc\x7f é"); got != "a?[2J?b?c? é" {
		t.Errorf("got %q", got)
	}
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
