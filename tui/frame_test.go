package tui

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/exp/golden"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/tui/chart"
)

var (
	fourMacs = filepath.Join("testdata", "four-macs.ndjson")
	fresh    = filepath.Join("testdata", "fresh.ndjson")
)

// requireFrame compares the text of the screen with a golden file, and checks that it fills the screen.
func requireFrame(tb testing.TB, s *testScreen) {
	tb.Helper()
	text := ansi.Strip(s.content())
	lines := strings.Split(text, "\n")
	if len(lines) != s.h {
		tb.Errorf("the frame has %d lines, want %d", len(lines), s.h)
	}
	for i, l := range lines {
		if n := ansi.StringWidth(l); n > s.w {
			tb.Errorf("line %d has %d columns, more than %d: %q", i, n, s.w, l)
		}
		lines[i] = strings.TrimRight(l, " ") // golden files without blanks at the ends
	}
	golden.RequireEqual(tb, strings.Join(lines, "\n")+"\n")
}

func TestFrame(t *testing.T) {
	tests := []struct {
		name      string
		w, h      int
		recording string
		symbols   chart.Symbols
		do        func(*testScreen)
	}{
		{name: "80x24", w: 80, h: 24},
		{name: "120x40", w: 120, h: 40},
		{name: "200x60", w: 200, h: 60},
		{name: "38x9", w: 38, h: 9},
		{name: "40x10", w: 40, h: 10},
		{name: "60x16", w: 60, h: 16},
		{name: "fresh 80x24", w: 80, h: 24, recording: fresh},
		{name: "ascii 120x40", w: 120, h: 40, symbols: chart.ASCII},
		{name: "block 160x40", w: 160, h: 40, symbols: chart.Block},
		{name: "detail 120x40", w: 120, h: 40, do: func(s *testScreen) { s.keys("j", "j", "j", "j", "enter") }},
		{name: "detail of a node that is down 80x24", w: 80, h: 24, do: func(s *testScreen) { s.keys("j", "j", "j", "enter") }},
		{name: "help 100x30", w: 100, h: 30, do: func(s *testScreen) { s.keys("?") }},
		{name: "help 40x12", w: 40, h: 12, do: func(s *testScreen) { s.keys("?") }},
		{name: "models of one node 120x30", w: 120, h: 30, do: func(s *testScreen) { s.keys("j", "j") }},
		{name: "sorted requests 80x24", w: 80, h: 24, do: func(s *testScreen) { s.keys("tab", "s", "s", "s", "j", "j") }},
		{name: "filter while typing 80x24", w: 80, h: 24, do: func(s *testScreen) { s.keys("/", "s", "t", "u") }},
		{name: "filter kept 80x24", w: 80, h: 24, do: func(s *testScreen) { s.keys("/", "s", "t", "u", "enter") }},
		{name: "lost 100x24", w: 100, h: 24, do: func(s *testScreen) { s.lose(83 * time.Second) }},
		{name: "paused 80x24", w: 80, h: 24, do: func(s *testScreen) {
			s.keys("p")
			s.send(clockMsg(s.clock.Add(9 * time.Second)))
		}},
		{name: "quiet 80x24", w: 80, h: 24, do: func(s *testScreen) { s.send(clockMsg(s.clock.Add(12 * time.Second))) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScreenTest(t, tt.symbols, tt.w, tt.h)
			if tt.recording == "" {
				tt.recording = fourMacs
			}
			s.play(tt.recording)
			if tt.do != nil {
				tt.do(s)
			}
			requireFrame(t, s)
		})
	}
}

func TestFrameBeforeAnyData(t *testing.T) {
	t.Run("connecting", func(t *testing.T) { requireFrame(t, newScreenTest(t, chart.Braille, 60, 12)) })
	t.Run("out of reach", func(t *testing.T) {
		s := newScreenTest(t, chart.Braille, 80, 12)
		s.lose(0)
		requireFrame(t, s)
	})
}

// TestColours keeps the escape sequences of one frame: only the palette of the terminal, bold and faint.
func TestColours(t *testing.T) {
	s := newScreenTest(t, chart.Braille, 80, 24)
	s.play(fourMacs)
	golden.RequireEqual(t, s.content())
	if strings.Contains(s.content(), "38;") || strings.Contains(s.content(), "48;") {
		t.Error("the frame uses colours that are not of the terminal's sixteen")
	}
}

func TestStaleDataHasNoColour(t *testing.T) {
	s := newScreenTest(t, chart.Braille, 80, 24)
	s.play(fourMacs)
	const green = "\x1b[32m"
	if body, _ := cutFooter(s.content()); !strings.Contains(body, green) {
		t.Fatal("a live frame has no green")
	}
	s.lose(time.Second)
	if body, _ := cutFooter(s.content()); strings.Contains(body, green) {
		t.Error("a stale frame still shows green states")
	}
	s.snapshot(s.shown.snap)
	if body, _ := cutFooter(s.content()); !strings.Contains(body, green) {
		t.Error("the frame stays stale after the cluster came back")
	}
}

func cutFooter(frame string) (body, footer string) {
	i := strings.LastIndexByte(frame, '\n')
	return frame[:i], frame[i+1:]
}

// TestNothingMovesWhenRequestsComeAndGo compares where everything is with no request, some, and many.
func TestNothingMovesWhenRequestsComeAndGo(t *testing.T) {
	t.Parallel()
	for _, size := range [][2]int{{80, 24}, {120, 40}, {200, 60}} {
		s := newScreenTest(t, chart.Braille, size[0], size[1])
		s.play(fourMacs)
		skeleton := func(n int) string {
			snap := *s.shown.snap
			snap.Requests = nil
			for i := range n {
				r := s.shown.snap.Requests[i%len(s.shown.snap.Requests)]
				r.ID += cluster.RequestID(rune('a' + i%26))
				snap.Requests = append(snap.Requests, r)
			}
			other := newScreenTest(t, chart.Braille, size[0], size[1])
			other.snapshot(&snap)
			var places []string
			for y, l := range strings.Split(ansi.Strip(other.content()), "\n") {
				for _, title := range []string{"TOK/S", "STATE", "MODEL ", "events ", "models on "} {
					for x := 0; strings.Contains(l[x:], title); x++ {
						x += strings.Index(l[x:], title)
						places = append(places, fmt.Sprintf("%s at %d,%d", title, ansi.StringWidth(l[:x]), y))
					}
				}
			}
			return strings.Join(places, "\n")
		}
		none := skeleton(0)
		for _, n := range []int{1, 20, 200} {
			if got := skeleton(n); got != none {
				t.Errorf("%v: titles moved with %d requests:\n%s\nwithout any:\n%s", size, n, got, none)
			}
		}
	}
}
