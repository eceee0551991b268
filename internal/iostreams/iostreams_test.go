package iostreams

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(asScreen) != "" {
		drawBoard()
		return
	}
	goleak.VerifyTestMain(m)
}

func TestColor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		when  string
		tty   bool
		env   map[string]string
		color bool
	}{
		{"terminal", "auto", true, nil, true},
		{"pipe", "auto", false, nil, false},
		{"NO_COLOR", "auto", true, map[string]string{"NO_COLOR": "1"}, false},
		{"empty NO_COLOR", "auto", true, map[string]string{"NO_COLOR": ""}, true},
		{"dumb", "auto", true, map[string]string{"TERM": "dumb"}, false},
		{"always in a pipe", "always", false, map[string]string{"NO_COLOR": "1"}, true},
		{"never on a terminal", "never", true, nil, false},
	} {
		s, _, _, _ := Test()
		s.env = func(name string) (string, bool) { v, ok := c.env[name]; return v, ok }
		s.SetTTY(c.tty, c.tty, c.tty)
		s.SetColor(c.when)
		if s.OutColor() != c.color || s.ErrColor() != c.color {
			t.Errorf("%s: out %v, err %v, want %v", c.name, s.OutColor(), s.ErrColor(), c.color)
		}
	}
}

func TestProgressInPipe(t *testing.T) {
	t.Parallel()
	s, _, out, errOut := Test()
	p := s.NewProgress(false)
	p.Step("one")
	p.Step("one")
	p.Step("two %d", 2)
	p.Close()
	if !regexp.MustCompile(`^\d\d:\d\d:\d\d one\n\d\d:\d\d:\d\d two 2\n$`).MatchString(errOut.String()) || out.Len() > 0 {
		t.Errorf("stderr %q, stdout %q", errOut, out)
	}
}

func TestProgressOnTerminal(t *testing.T) {
	t.Parallel()
	s, _, _, errOut := Test()
	s.SetTTY(true, true, true)
	p := s.NewProgress(false)
	p.Step("%s", strings.Repeat("long ", 40))
	p.Step("short")
	p.Close()
	p.Close()
	got := errOut.String()
	if strings.Contains(got, "\n") || !strings.HasSuffix(got, "\r\x1b[K") || !strings.Contains(got, "short (0s)") {
		t.Errorf("got %q", got)
	}
	for line := range strings.SplitSeq(got, "\r") {
		if n := len([]rune(strings.TrimSuffix(line, "\x1b[K"))); n >= 80 {
			t.Errorf("%d cells in 80", n)
		}
	}
}

func TestProgressQuiet(t *testing.T) {
	t.Parallel()
	s, _, _, errOut := Test()
	p := s.NewProgress(true)
	p.Step("one")
	p.Close()
	if errOut.Len() > 0 {
		t.Errorf("got %q", errOut)
	}
}
