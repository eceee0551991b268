package tui

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/tui/chart"
)

// screenVariable makes the test binary the dashboard itself, over the recording that it names: a real program for a real
// terminal, with nothing to build.
const screenVariable = "MLXCTL_TUI_REPLAY"

func TestMain(m *testing.M) {
	if path := os.Getenv(screenVariable); path != "" {
		os.Exit(runScreen(path))
	}
	goleak.VerifyTestMain(m)
}

// runScreen plays a recording, five seconds a second; after its end the cluster is out of reach for a while, and it
// begins again.
func runScreen(path string) int {
	lines, err := readRecording(path)
	if err == nil {
		err = Run(context.Background(), Options{Feed: &replay{lines: lines, every: 200 * time.Millisecond, lost: 6}, Symbols: os.Getenv("MLXCTL_TUI_SYMBOLS")})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_, _ = fmt.Fprintln(os.Stdout, "dashboard left")
	return 0
}

// recorded is one line of a recording.
type recorded struct {
	Snapshot *cluster.Snapshot `json:"snapshot"`
	Events   []cluster.Event   `json:"events"`
}

func readRecording(path string) ([]recorded, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []recorded
	sc := bufio.NewScanner(bytes.NewReader(raw))
	sc.Buffer(nil, 1<<22)
	for sc.Scan() {
		var r recorded
		if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("%s line %d: %w", path, len(out)+1, err)
		}
		out = append(out, r)
	}
	return out, sc.Err()
}

// replay is a Feed over a recording.
type replay struct {
	lines []recorded
	every time.Duration
	lost  int // how often Next fails after the end, before it begins again
	at    int
	round int
}

func (f *replay) Next(ctx context.Context) (*cluster.Snapshot, []cluster.Event, error) {
	if !pause(ctx, f.every) {
		return nil, nil, ctx.Err()
	}
	f.at++
	if f.at > len(f.lines) {
		if f.at >= len(f.lines)+f.lost {
			f.at = 0
			f.round++
		}
		return nil, nil, cluster.Errorf(cluster.CodeUnreachable, "no controller answers on 127.0.0.1:4222").WithHint("start it: mlxctl up")
	}
	r := f.lines[f.at-1]
	s := *r.Snapshot
	s.At = s.At.Add(time.Duration(f.round*len(f.lines)) * time.Second)
	return &s, r.Events, nil
}

// mute is sources from which nothing comes by itself.
func mute() sources { return sources{update: func(time.Duration) tea.Cmd { return nil }} }

// testScreen is a model without a program.
type testScreen struct {
	*model
	tb testing.TB
}

func newScreenTest(tb testing.TB, symbols chart.Symbols, w, h int) *testScreen {
	tb.Helper()
	s := &testScreen{newModel(mute(), symbols, "", time.UTC), tb}
	s.send(tea.WindowSizeMsg{Width: w, Height: h})
	return s
}

func (s *testScreen) send(msgs ...tea.Msg) {
	for _, msg := range msgs {
		s.Update(msg)
	}
}

// play sends a recording as if it came now, one line a second.
func (s *testScreen) play(path string) {
	s.tb.Helper()
	lines, err := readRecording(path)
	if err != nil {
		s.tb.Fatal(err)
	}
	for _, r := range lines {
		s.snapshot(r.Snapshot, r.Events...)
	}
}

func (s *testScreen) snapshot(snap *cluster.Snapshot, events ...cluster.Event) {
	s.send(updateMsg{update{snapshot: snap, came: snap.At, events: events}, snap.At})
}

// lose makes the cluster unreachable for so long.
func (s *testScreen) lose(d time.Duration) {
	err := cluster.Errorf(cluster.CodeUnreachable, "no controller answers on 127.0.0.1:4222").WithHint("start it: mlxctl up")
	s.send(updateMsg{update{err: err}, s.came}, clockMsg(s.came.Add(d)))
}

// keys presses keys by their names.
func (s *testScreen) keys(names ...string) {
	for _, n := range names {
		s.send(press(n))
	}
}

func press(name string) tea.KeyPressMsg {
	special := map[string]tea.Key{
		"tab": {Code: tea.KeyTab}, "enter": {Code: tea.KeyEnter}, "esc": {Code: tea.KeyEscape}, "up": {Code: tea.KeyUp},
		"down": {Code: tea.KeyDown}, "backspace": {Code: tea.KeyBackspace}, "pgdown": {Code: tea.KeyPgDown},
		"shift+tab": {Code: tea.KeyTab, Mod: tea.ModShift}, "ctrl+c": {Code: 'c', Mod: tea.ModCtrl},
		"ctrl+z": {Code: 'z', Mod: tea.ModCtrl}, "ctrl+w": {Code: 'w', Mod: tea.ModCtrl}, "space": {Code: tea.KeySpace, Text: " "},
	}
	if k, ok := special[name]; ok {
		return tea.KeyPressMsg(k)
	}
	r := []rune(name)
	if len(r) != 1 {
		panic(errors.New("no such key: " + name))
	}
	return tea.KeyPressMsg{Code: r[0], Text: name}
}

func (s *testScreen) content() string { return s.View().Content }
