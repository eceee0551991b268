package wire_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mlxctl/mlxctl/internal/gateway/wire"
)

func TestAppendString(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{"", `""`},
		{"plain", `"plain"`},
		{`a "quote" and a \`, `"a \"quote\" and a \\"`},
		{"\n\r\t\x00\x1f", `"\n\r\t\u0000\u001f"`},
		{"größe 好 😀", `"größe 好 😀"`},
		{"<b>&</b>", `"<b>&</b>"`},
		{"a\u2028b\u2029c\u0085d", `"a\u2028b\u2029c\u0085d"`},
		{"cut \xf0\x9f here", `"cut \ufffd\ufffd here"`},
		{"\ufffd stays", "\"\ufffd stays\""},
	} {
		if got := string(wire.AppendString(nil, c.in)); got != c.want {
			t.Errorf("AppendString(%q) = %s, want %s", c.in, got, c.want)
		}
	}
}

func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "\x00", "é\xff", "\u2028", `\"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := wire.AppendString(nil, s)
		var back string
		if err := json.Unmarshal(got, &back); err != nil {
			t.Fatalf("%s is not JSON: %v", got, err)
		}
		if want := strings.ToValidUTF8(s, "\ufffd"); utf8.ValidString(s) && back != want {
			t.Fatalf("%q came back as %q", s, back)
		}
		if strings.ContainsAny(string(got), "\n\r\u2028\u2029\u0085") {
			t.Fatalf("%q is more than one line", got)
		}
	})
}

func TestAppendLog(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   float64
		want string
	}{
		{-0.25, "-0.25"},
		{0, "0"},
		{math.Inf(-1), "-9999"},
		{math.NaN(), "-9999"},
	} {
		if got := string(wire.AppendLog(nil, c.in)); got != c.want {
			t.Errorf("AppendLog(%v) = %s, want %s", c.in, got, c.want)
		}
	}
}

func TestAppendBytes(t *testing.T) {
	t.Parallel()
	if got := string(wire.AppendBytes(nil, []byte("é"))); got != "[195,169]" {
		t.Errorf("got %s", got)
	}
	if got := string(wire.AppendBytes(nil, nil)); got != "null" {
		t.Errorf("no bytes: got %s", got)
	}
}
