package tui

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/tui/chart"
)

func command(m *model, name string) string {
	_, cmd := m.Update(press(name))
	if cmd == nil {
		return ""
	}
	return reflect.TypeOf(cmd()).Name()
}

func TestQuitAndSuspend(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		before []string
		key    string
		want   string
	}{
		{"q", nil, "q", "QuitMsg"},
		{"ctrl+c", nil, "ctrl+c", "QuitMsg"},
		{"ctrl+z", nil, "ctrl+z", "SuspendMsg"},
		{"q in the help", []string{"?"}, "q", "QuitMsg"},
		{"q in the detail", []string{"enter"}, "q", "QuitMsg"},
		{"q is text in the filter", []string{"/"}, "q", ""},
		{"ctrl+c in the filter", []string{"/"}, "ctrl+c", "QuitMsg"},
		{"any other key closes the help", []string{"?"}, "s", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScreenTest(t, chart.Braille, 80, 24)
			s.play(fourMacs)
			s.keys(tt.before...)
			if got := command(s.model, tt.key); got != tt.want {
				t.Errorf("%s gave %q, want %q", tt.key, got, tt.want)
			}
		})
	}
}

func (s *testScreen) text() string { return ansi.Strip(s.content()) }

func (s *testScreen) wantText(want ...string) {
	s.tb.Helper()
	for _, w := range want {
		if !strings.Contains(s.text(), w) {
			s.tb.Errorf("the screen does not show %q:\n%s", w, s.text())
		}
	}
}

func (s *testScreen) wantNoText(not ...string) {
	s.tb.Helper()
	for _, w := range not {
		if strings.Contains(s.text(), w) {
			s.tb.Errorf("the screen shows %q:\n%s", w, s.text())
		}
	}
}

func TestFilterNarrowsAndGoesAway(t *testing.T) {
	t.Parallel()
	s := newScreenTest(t, chart.Braille, 120, 40)
	s.play(fourMacs)
	s.keys("/", "L", "E", "N", "A")
	s.wantText("nodes 1/4", "filter: lena")
	s.keys("enter")
	s.wantText("nodes 1/4", "filter: lena")
	s.keys("s", "tab") // keys work again
	s.keys("esc")
	s.wantText("nodes 4")
	s.wantNoText("filter:")
	s.keys("/", "q", "q", "q")
	s.wantText("nodes 0/4", "nothing matches the filter")
	s.wantNoText("no nodes yet", "no requests now", "nothing loaded")
	s.keys("esc")
	s.keys("/", "x", "y", " ", "z", "ctrl+w", "backspace", "backspace", "s", "esc")
	s.wantText("nodes 4")
}

func TestCursorStaysOnItsRow(t *testing.T) {
	t.Parallel()
	s := newScreenTest(t, chart.Braille, 120, 40)
	s.play(fourMacs)
	s.keys("tab", "j", "j")
	id := s.requests.selected().ID
	snap := *s.shown.snap
	snap.Requests = snap.Requests[1:] // the first one ends
	s.snapshot(&snap)
	if got := s.requests.selected().ID; got != id {
		t.Errorf("the cursor went from %s to %s when another request ended", id, got)
	}
	if v := s.View(); v.Cursor == nil || !strings.HasPrefix(strings.Split(s.text(), "\n")[v.Cursor.Y], "│▸ "+string(id)[:8]) {
		t.Errorf("the terminal's cursor %+v is not on the row of %s", v.Cursor, id)
	}
	snap.Requests = nil
	s.snapshot(&snap)
	if s.requests.selected() != nil {
		t.Error("a request is selected where there is none")
	}
}

func TestNodeUnderTheCursorNarrowsTheModels(t *testing.T) {
	t.Parallel()
	s := newScreenTest(t, chart.Braille, 120, 40)
	s.play(fourMacs)
	s.wantText("models on all nodes 5")
	s.keys("j")
	s.wantText("models on air-lena 1")
	s.keys("esc")
	s.wantText("models on all nodes 5")
}

func TestDetailFollowsItsNode(t *testing.T) {
	t.Parallel()
	s := newScreenTest(t, chart.Braille, 120, 40)
	s.play(fourMacs)
	s.keys("tab", "j", "enter") // the node of a request
	s.wantText("studio ready", "Apple M2 Ultra · Mac14,14", "models in memory 2", "models on disk 4")
	s.wantNoText("kv_bits")
	with := *s.shown.snap
	with.Nodes = slices.Clone(with.Nodes)
	for i := range with.Nodes {
		with.Nodes[i].Replicas = slices.Clone(with.Nodes[i].Replicas)
		for j := range with.Nodes[i].Replicas {
			r := &with.Nodes[i].Replicas[j]
			r.Adapter, r.KVBits = "/srv/legal", 8
		}
	}
	s.snapshot(&with)
	s.wantText("adapter=legal,kv_bits=8")
	snap := *s.shown.snap
	snap.Nodes = snap.Nodes[:1]
	s.snapshot(&snap)
	s.wantText("this node is gone")
	s.keys("esc")
	s.wantText("nodes 1", "requests")
}

func TestPauseFreezesThePanes(t *testing.T) {
	t.Parallel()
	s := newScreenTest(t, chart.Braille, 120, 40)
	s.play(fourMacs)
	s.keys("p")
	before, _ := cutFooter(s.text())
	snap := *s.shown.snap
	snap.At = snap.At.Add(5 * time.Second)
	snap.Requests = nil
	s.snapshot(&snap, cluster.Event{Kind: cluster.EventOperator, Message: "while paused"})
	if during, _ := cutFooter(s.text()); during != before {
		t.Errorf("a paused screen changed:\n%s\nbefore:\n%s", during, before)
	}
	s.wantText("paused")
	s.keys("p")
	s.wantText("no requests now", "while paused", "live")
}

func TestFrameIsComposedOnlyWhenSomethingChanged(t *testing.T) {
	t.Parallel()
	s := newScreenTest(t, chart.Braille, 120, 40)
	s.play(fourMacs)
	s.content()
	s.send(clockMsg(s.clock.Add(time.Second)), tea.MouseWheelMsg{}, tea.BlurMsg{}, tea.FocusMsg{})
	if s.isDirty {
		t.Error("a message that changes nothing makes a new frame")
	}
	s.send(updateMsg{update{}, s.clock})
	if !s.isDirty {
		t.Error("an update makes no new frame")
	}
}

func TestBlurredScreenAsksSeldom(t *testing.T) {
	t.Parallel()
	var gaps []time.Duration
	m := newModel(sources{update: func(gap time.Duration) tea.Cmd {
		gaps = append(gaps, gap)
		return nil
	}}, chart.Braille, "", time.UTC)
	for _, msg := range []tea.Msg{updateMsg{}, tea.BlurMsg{}, updateMsg{}, tea.FocusMsg{}, updateMsg{}} {
		m.Update(msg)
	}
	if want := []time.Duration{focusedGap, blurredGap, focusedGap}; !reflect.DeepEqual(gaps, want) {
		t.Errorf("gaps = %v, want %v", gaps, want)
	}
}

func TestDroppedEventsAreTold(t *testing.T) {
	t.Parallel()
	s := newScreenTest(t, chart.Braille, 120, 40)
	s.play(fourMacs)
	s.send(updateMsg{update{dropped: 1234}, s.clock})
	s.wantText("1,234 events dropped")
}
