package iostreams

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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
	synctest.Test(t, func(t *testing.T) {
		s, _, _, errOut := Test()
		s.SetTTY(true, true, true)
		p := s.NewProgress(false)
		p.Step("%s", strings.Repeat("long ", 40))
		nextFrame()
		p.Step("short")
		nextFrame()
		if got := shown(errOut.String()); !regexp.MustCompile(`^\S short \(0s\)\n$`).MatchString(got) {
			t.Errorf("shows %q", got)
		}
		p.Close()
		p.Close()
		if got := shown(errOut.String()); got != "" {
			t.Errorf("left %q", got)
		}
		for line := range strings.SplitSeq(errOut.String(), "\n") {
			if n := len([]rune(line)); n > 80 {
				t.Errorf("%d cells in 80", n)
			}
		}
	})
}

// Whatever is written while lines move stands above them, on lines of its own.
func TestWhatIsWrittenStandsAboveWhatMoves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, in, _, _ := Test()
		s.SetTTY(true, true, true)
		screen := &frames{}
		s.Err = &guarded{s.screen, screen, s.ErrTTY}
		s.Out = s.Err // one terminal
		frame := func() string {
			nextFrame()
			return shown(screen.String())
		}
		p := s.NewProgress(false)
		p.Step("looking")
		frame()
		io.WriteString(s.Out, "NAME  ADDRESS\n")
		b := s.NewBoard(false)
		b.Names("mini", "studio")
		b.Step("1", "mini", "copy", "running", "")
		frame()
		b.End("1", "mini", true, "serves")
		b.End("2", "studio", true, "serves")
		if got := shown(screen.String()); got != "NAME  ADDRESS\n✓ mini    serves\n✓ studio  serves\n" {
			t.Errorf("shows\n%s", got)
		}
		if got := frame(); !strings.HasSuffix(got, "serves\n⠸ looking (0s)\n") {
			t.Errorf("shows\n%s", got)
		}
		in.WriteString("y\n")
		if _, err := s.Confirm(t.Context(), "Really?"); err != nil {
			t.Fatal(err)
		}
		screen.Write([]byte("\n")) // the terminal shows the key that was pressed
		if got := frame(); !strings.Contains(got, "serves\nReally? [y/N] \n⠼ looking") {
			t.Errorf("shows\n%s", got)
		}
		b.Close()
		p.Close()
		if got := shown(screen.String()); !strings.HasSuffix(got, "Really? [y/N] \n") {
			t.Errorf("left\n%s", got)
		}
	})
}

// nextFrame waits until lines were drawn anew.
func nextFrame() {
	t := time.NewTimer(everyFrame)
	<-t.C
	synctest.Wait()
}

// shown is what a terminal shows of what was written to it, as far as lines and the codes of this package go.
func shown(written string) string {
	lines, at := []string{""}, 0
	for written != "" {
		var up int
		switch {
		case strings.HasPrefix(written, "\x1b[2K"):
			lines[at], written = "", written[4:]
		case strings.HasPrefix(written, "\x1b["):
			n, _ := fmt.Sscanf(written, "\x1b[%dA\r", &up)
			at -= up * n
			written = written[strings.IndexByte(written, '\r')+1:]
		case written[0] == '\n':
			if at++; at == len(lines) {
				lines = append(lines, "")
			}
			written = written[1:]
		default:
			end := strings.IndexAny(written, "\n\x1b")
			if end < 0 {
				end = len(written)
			}
			lines[at] += written[:end]
			written = written[end:]
		}
	}
	return strings.Join(lines[:at], "\n") + map[bool]string{true: "\n"}[at > 0] + lines[at]
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
