package tui

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/tui/chart"
)

// patience ends what hangs; it says nothing about how long anything may take.
const patience = time.Minute

// output is a terminal's end that the test can wait on.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
	wake chan struct{}
}

func newOutput() *output { return &output{wake: make(chan struct{}, 1)} }

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (o *output) waitFor(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(patience)
	for !strings.Contains(o.String(), want) {
		select {
		case <-o.wake:
		case <-deadline:
			t.Fatalf("%q did not come; the output is %q", want, o.String())
		}
	}
}

// startProgram runs the whole program on pipes in place of a terminal.
func startProgram(ctx context.Context, t *testing.T) (in io.Writer, out *output, result <-chan error) {
	t.Helper()
	lines, err := readRecording(fourMacs)
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	t.Cleanup(func() { _ = w.Close() })
	out = newOutput()
	done := make(chan error, 1)
	go func() {
		own, cancel := context.WithCancel(ctx)
		p := newPump(&replay{lines: lines, every: 5 * time.Millisecond, lost: 3})
		var wg sync.WaitGroup
		wg.Go(func() { p.run(own) })
		err := show(ctx, newModel(listen(own, p), chart.Braille, "", time.UTC), Options{
			In: r, Out: out, Env: []string{"TERM=xterm-256color", "LANG=C.UTF-8"},
		}, tea.WithWindowSize(100, 30))
		cancel()
		wg.Wait()
		done <- err
	}()
	return w, out, done
}

func TestProgramShowsTheFeedAndQuits(t *testing.T) {
	in, out, result := startProgram(t.Context(), t)
	out.waitFor(t, "mini-rack-1")
	out.waitFor(t, "reconnecting")
	if _, err := io.WriteString(in, "q"); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Errorf("quitting gave %v", err)
	}
	for _, reset := range []string{"\x1b[?1049l", "\x1b[?25h", "\x1b[?1004l", "\x1b[?2004l"} {
		if !strings.Contains(out.String(), reset) {
			t.Errorf("the terminal is left without %q", reset)
		}
	}
}

func TestProgramEndsWithItsContext(t *testing.T) {
	cause := errors.New("terminated")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, out, result := startProgram(ctx, t)
	out.waitFor(t, "mini-rack-1")
	cancel(cause)
	if err := <-result; !errors.Is(err, cause) {
		t.Errorf("error = %v, want %v", err, cause)
	}
	if !strings.Contains(out.String(), "\x1b[?1049l") {
		t.Error("the alternate screen is still on")
	}
}

func TestDumbTerminalGetsPlainLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lines, err := readRecording(fourMacs)
		if err != nil {
			t.Fatal(err)
		}
		lines[1].Events = append(lines[1].Events, cluster.Event{Message: "a\x1b[2Jb\nc"})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var out bytes.Buffer
		err = Run(ctx, Options{Feed: &replay{lines: lines, every: 200 * time.Millisecond, lost: 1 << 20}, Out: &out, Env: []string{"TERM=dumb"}})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error = %v, want that of the context", err)
		}
		for _, want := range []string{" 4/4 nodes ready, ", " event ab c\n", " event node mini-rack-2 is down", " reconnecting: no controller answers"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%q is missing in:\n%s", want, out.String())
			}
		}
		if strings.ContainsAny(out.String(), "\x1b\r\a") {
			t.Errorf("the lines hold control characters: %q", out.String())
		}
		if n := strings.Count(out.String(), "nodes ready"); n > 21 {
			t.Errorf("%d lines of state in 20 s", n)
		}
	})
}

func TestRunRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	if err := Run(t.Context(), Options{}); err == nil {
		t.Error("Run works without a feed")
	}
	err := Run(t.Context(), Options{Feed: &replay{}, Symbols: "hearts"})
	if cluster.CodeOf(err) != cluster.CodeInvalid {
		t.Errorf("error = %v, want %s", err, cluster.CodeInvalid)
	}
}

func TestNoColor(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"1", "yes", "0"} {
		env := []string{"TERM=xterm-256color", "TTY_FORCE=1", "NO_COLOR=" + value}
		if got := profile(io.Discard, env); got > colorprofile.ASCII {
			t.Errorf("NO_COLOR=%s leaves the profile %v", value, got)
		}
	}
	if got := profile(io.Discard, []string{"TERM=xterm-256color", "TTY_FORCE=1", "NO_COLOR="}); got <= colorprofile.ASCII {
		t.Errorf("an empty NO_COLOR takes the colours away: %v", got)
	}
}
