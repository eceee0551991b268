package iostreams

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// asScreen makes the test binary draw a board on the terminal that it is given.
const asScreen = "IOSTREAMS_TEST_BOARD"

// drawBoard is what runs on that terminal.
func drawBoard() {
	b := System().NewBoard(false)
	tick := time.NewTicker(150 * time.Millisecond)
	defer tick.Stop()
	for i := range 40 {
		b.Step(fmt.Sprint(i), fmt.Sprintf("mac-%02d", i), "copy", "running", strings.Repeat("long ", 40))
	}
	for range 3 {
		<-tick.C
	}
	for i := range 40 {
		b.End(fmt.Sprint(i), fmt.Sprintf("mac-%02d", i), i != 7, fmt.Sprintf("done %02d", i))
		if i%10 == 0 {
			<-tick.C
		}
	}
	b.Close()
}

// On a real terminal of 60 by 12, each host leaves one line and nothing else stays.
func TestBoardInTmux(t *testing.T) {
	t.Parallel()
	tmux, err := exec.LookPath("tmux")
	if err != nil {
		t.Skip("SKIPPED: tmux is not installed")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	socket := t.TempDir() + "/tmux"
	run := func(args ...string) string {
		out, err := exec.Command(tmux, append([]string{"-S", socket, "-f", "/dev/null"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("tmux %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	run("new-session", "-d", "-x", "60", "-y", "12", asScreen+"=1 "+exe+"; echo THE END; sleep 600")
	t.Cleanup(func() { run("kill-server") })
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var screen string
	for !strings.Contains(screen, "THE END") {
		if time.Now().After(deadline) {
			t.Fatalf("no end:\n%s", screen)
		}
		<-tick.C
		screen = run("capture-pane", "-p", "-S", "-200")
	}
	lines := strings.Split(strings.TrimSpace(screen), "\n")
	if len(lines) != 41 {
		t.Errorf("%d lines, want 41:\n%s", len(lines), screen)
	}
	for i := range 40 {
		mark := "✓"
		if i == 7 {
			mark = "✗"
		}
		if want := fmt.Sprintf("%s mac-%02d  done %02d", mark, i, i); i < len(lines) && strings.TrimSpace(lines[i]) != want {
			t.Errorf("line %d: %q, want %q", i, lines[i], want)
		}
	}
}

func TestBoardInPipe(t *testing.T) {
	t.Parallel()
	s, _, out, errOut := Test()
	b := s.NewBoard(false)
	b.Step("1", "mini", "copy", "running", "10 %")
	b.Step("1", "mini", "copy", "running", "20 %")
	b.Step("1", "mini", "unit", "changed", "")
	b.End("1", "mini", true, "serves (1.0 s)")
	b.Close()
	want := `^\d\d:\d\d:\d\d mini copy running 10 %\n\d\d:\d\d:\d\d mini unit changed\n\d\d:\d\d:\d\d mini serves \(1\.0 s\)\n$`
	if !regexp.MustCompile(want).MatchString(errOut.String()) || out.Len() > 0 {
		t.Errorf("stderr %q, stdout %q", errOut, out)
	}
	quiet, _, _, errOut := Test()
	b = quiet.NewBoard(true)
	b.Step("1", "mini", "copy", "running", "")
	b.End("1", "mini", true, "serves")
	b.Close()
	if errOut.Len() > 0 {
		t.Errorf("quiet: %q", errOut)
	}
}

func TestBoardTellsHostsOfOneNameApart(t *testing.T) {
	t.Parallel()
	s, _, _, errOut := Test()
	b := s.NewBoard(false)
	b.Step("1", "mini", "copy", "running", "")
	b.Step("2", "mini", "copy", "running", "")
	b.End("1", "mini", true, "serves")
	b.Step("2", "mini", "copy", "running", "") // nothing new
	b.Close()
	if n := strings.Count(errOut.String(), "mini copy running\n"); n != 2 || strings.Count(errOut.String(), "\n") != 3 {
		t.Errorf("stderr %q", errOut)
	}
}

// frames is a terminal that counts what is drawn.
type frames struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (f *frames) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.b.Write(p)
}

func (f *frames) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.b.String()
}

func TestBoardDrawsAtMostTenTimesASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, drawsAtMostTenTimesASecond)
}

func drawsAtMostTenTimesASecond(t *testing.T) {
	s, _, _, _ := Test()
	s.SetTTY(true, true, true)
	screen := &frames{}
	s.Err = screen
	b := s.NewBoard(false)
	end := time.NewTimer(550 * time.Millisecond)
	defer end.Stop()
	steps := 0
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
loop:
	for {
		select {
		case <-end.C:
			break loop
		case <-tick.C:
			steps++
			b.Step("1", "mini", fmt.Sprintf("step %d", steps), "running", "")
		}
	}
	resume := b.Pause()
	before := screen.String()
	if n := strings.Count(before, "mini"); n < 1 || n > 6 {
		t.Errorf("%d frames in 0.55 s", n)
	}
	pause := time.NewTimer(250 * time.Millisecond)
	defer pause.Stop()
	<-pause.C
	if screen.String() != before {
		t.Error("a paused board draws")
	}
	resume()
	b.Close()
	if !strings.HasSuffix(screen.String(), "\x1b[2K\n\x1b[1A\r") {
		t.Errorf("left on the terminal: %q", screen.String()[len(before):])
	}
}

func TestConfirm(t *testing.T) {
	t.Parallel()
	for typed, want := range map[string]bool{"y\n": true, "YES\n": true, "n\n": false, "\n": false, "x\n": false} {
		s, in, _, errOut := Test()
		s.SetTTY(true, true, true)
		in.WriteString(typed + "next\n")
		yes, err := s.Confirm(t.Context(), "Really?")
		if err != nil || yes != want || !strings.HasPrefix(errOut.String(), "Really? [y/N] ") {
			t.Errorf("%q: %v, %v", typed, yes, err)
		}
		if text, err := s.Secret(t.Context(), "Password: "); err != nil || text != "next" {
			t.Errorf("after %q: %q, %v", typed, text, err)
		}
	}
	s, _, _, errOut := Test()
	if _, err := s.Confirm(t.Context(), "Really?"); err != ErrNobody || errOut.Len() > 0 { //nolint:errorlint // this very one
		t.Errorf("no terminal: %v", err)
	}
	s.SetTTY(true, true, true)                                         // and nothing is ever typed
	if _, err := s.Confirm(t.Context(), "Really?"); err != ErrNobody { //nolint:errorlint // this very one
		t.Errorf("end of input: %v", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s.In = r
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(context.DeadlineExceeded)
	if _, err := s.Confirm(ctx, "Really?"); err != context.DeadlineExceeded { //nolint:errorlint // this very one
		t.Errorf("interrupted: %v", err)
	}
	w.Close()
	if _, err := r.Read(make([]byte, 1)); err == nil {
		t.Error("something was read")
	}
}
