package tui

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
)

// terminal is a real one: a shell in tmux.
type terminal struct {
	t   *testing.T
	dir string
}

func newTerminal(t *testing.T, w, h int) *terminal {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Fatal("this test needs tmux for a real terminal: install tmux and run it again")
	}
	dir, err := os.MkdirTemp("", "mt") //nolint:usetesting // a socket goes into it, whose path must be short
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t, dir}
	t.Cleanup(func() {
		term.tmux("kill-server")
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	term.must("-f", "/dev/null", "new-session", "-d", "-x", strconv.Itoa(w), "-y", strconv.Itoa(h), "sh")
	term.prompt()
	return term
}

// prompt waits until the shell waits for a line: what is typed before shows twice, and not behind the prompt.
func (term *terminal) prompt() {
	term.t.Helper()
	term.waitFor("the shell's prompt", func(s string) bool {
		lines := strings.Split(strings.TrimSpace(s), "\n")
		last := strings.TrimSpace(lines[len(lines)-1])
		return last == "$" || last == "#"
	})
}

func (term *terminal) tmux(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := exec.CommandContext(ctx, "tmux", append([]string{"-S", filepath.Join(term.dir, "s")}, args...)...)
	c.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "LANG=C.UTF-8", "PS1=$ ", "ENV=", "NO_COLOR=", "TMUX=")
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.String(), err
}

func (term *terminal) must(args ...string) string {
	term.t.Helper()
	out, err := term.tmux(args...)
	if err != nil {
		term.t.Fatalf("tmux %v: %v: %s", args, err, out)
	}
	return out
}

func (term *terminal) screen() string {
	term.t.Helper()
	return term.must("capture-pane", "-p")
}

func (term *terminal) enter(line string) {
	term.t.Helper()
	term.must("send-keys", "-l", line)
	term.must("send-keys", "Enter")
}

// waitFor polls the screen until ok.
func (term *terminal) waitFor(what string, ok func(screen string) bool) string {
	term.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if last = term.screen(); ok(last) {
			return last
		}
	}
	term.t.Fatalf("waited for %s; the screen shows:\n%s", what, last)
	return ""
}

func (term *terminal) waitForText(text string) string {
	term.t.Helper()
	return term.waitFor(strconv.Quote(text), func(s string) bool { return strings.Contains(s, text) })
}

func TestRealTerminal(t *testing.T) {
	term := newTerminal(t, 100, 30)
	recording, err := filepath.Abs(fourMacs)
	if err != nil {
		t.Fatal(err)
	}
	term.enter("stty -g > " + term.dir + "/before; echo before")
	term.waitForText("\nbefore")
	term.prompt()
	term.enter(screenVariable + "=" + recording + " " + os.Args[0] + " -test.run=NONE")
	term.waitForText("mini-rack-1")
	term.waitForText("live")

	for _, size := range [][2]int{{130, 40}, {170, 45}, {80, 24}} {
		term.must("resize-window", "-x", strconv.Itoa(size[0]), "-y", strconv.Itoa(size[1]))
		term.waitFor("a frame of "+strconv.Itoa(size[0])+" columns", func(s string) bool { return isWholeFrame(s, size[0], size[1]) })
	}
	term.must("resize-window", "-x", "38", "-y", "9")
	term.waitForText("terminal too small 38×9")
	term.must("resize-window", "-x", "100", "-y", "30")

	term.must("send-keys", "j", "Enter")
	term.waitForText("models on disk")
	term.must("send-keys", "Enter", "?")
	term.waitForText("any key closes")
	term.must("send-keys", "x")
	term.waitFor("the help to close", func(s string) bool { return !strings.Contains(s, "any key closes") })

	term.must("send-keys", "C-z")
	term.waitFor("the shell after ctrl+z", func(s string) bool { return strings.Contains(s, "Stopped") && !strings.Contains(s, "nodes ready") })
	term.prompt()
	term.enter("fg")
	term.waitForText("nodes ready")

	term.must("send-keys", "q")
	after := term.waitForText("dashboard left")
	if strings.Contains(after, "nodes ready") {
		t.Errorf("the dashboard is still on the screen of the shell:\n%s", after)
	}
	term.wantCleanShell()
}

// isWholeFrame says whether the screen is one frame for its size: a header, a footer, and lines from edge to edge.
func isWholeFrame(s string, w, h int) bool {
	lines := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	if len(lines) != h || !strings.HasPrefix(lines[0], " mlxctl") || !strings.HasPrefix(lines[h-1], " q quit") {
		return false
	}
	for _, l := range lines {
		if strings.Contains(l, "nodes 4 ─") {
			return ansi.StringWidth(l) == w
		}
	}
	return false
}

func (term *terminal) wantCleanShell() {
	term.t.Helper()
	term.prompt()
	term.enter("stty -g > " + term.dir + "/after; cmp " + term.dir + "/before " + term.dir + "/after && echo same'-'settings")
	term.waitForText("same-settings")
	if flags := term.must("display-message", "-p", "#{alternate_on}#{mouse_any_flag}#{keypad_cursor_flag}#{cursor_flag}"); strings.TrimSpace(flags) != "0001" {
		term.t.Errorf("alternate screen, mouse, keypad, cursor = %s, want 0001", strings.TrimSpace(flags))
	}
	term.prompt()
	term.enter("echo typed'-'text")
	if s := term.waitForText("\ntyped-text"); !strings.Contains(s, " echo typed'-'text") {
		term.t.Errorf("what is typed does not show:\n%s", s)
	}
}
