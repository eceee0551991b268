package tui

import (
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"pgregory.net/rapid"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/tui/chart"
)

// TestEveryFrameFitsTheScreen draws random clusters on random screens after random keys.
func TestEveryFrameFitsTheScreen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		symbols := rapid.SampledFrom([]chart.Symbols{chart.Braille, chart.Block, chart.ASCII}).Draw(t, "symbols")
		s := &testScreen{model: newModel(mute(), symbols, "", time.UTC)}
		at := time.Unix(1_800_000_000, 0).UTC()
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0:
				s.send(tea.WindowSizeMsg{Width: rapid.IntRange(1, 240).Draw(t, "w"), Height: rapid.IntRange(1, 70).Draw(t, "h")})
			case 1:
				at = at.Add(time.Duration(rapid.IntRange(-3, 900).Draw(t, "seconds")) * time.Second)
				s.snapshot(drawSnapshot(t, at), drawEvents(t, at)...)
			case 2:
				s.send(updateMsg{update{err: cluster.Errorf(cluster.CodeUnreachable, "%s", drawText(t))}, at})
			case 3:
				s.send(clockMsg(at.Add(time.Minute)))
			default:
				s.keys(rapid.SampledFrom([]string{
					"j", "k", "g", "G", "tab", "shift+tab", "enter", "esc", "s", "/", "p", "?", "a", "ü", "世", "backspace", "pgdown", "space",
				}).Draw(t, "key"))
			}
			checkFrame(t, s)
		}
	})
}

func checkFrame(t *rapid.T, s *testScreen) {
	v := s.View()
	if s.w == 0 || s.h == 0 {
		return
	}
	lines := strings.Split(v.Content, "\n")
	if len(lines) != s.h {
		t.Fatalf("%dx%d: %d lines:\n%s", s.w, s.h, len(lines), v.Content)
	}
	for i, l := range lines {
		text := ansi.Strip(l)
		if n := ansi.StringWidth(text); n > s.w {
			t.Fatalf("%dx%d: line %d has %d columns: %q", s.w, s.h, i, n, text)
		}
		for _, r := range text {
			if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || (s.clean.plain && r > '~') {
				t.Fatalf("line %d holds %U: %q", i, r, text)
			}
		}
	}
	if c := v.Cursor; c != nil && (c.X < 0 || c.X >= s.w || c.Y < 0 || c.Y >= s.h) {
		t.Fatalf("the cursor is at %d,%d of %dx%d", c.X, c.Y, s.w, s.h)
	}
}

func drawText(t *rapid.T) string {
	return rapid.OneOf(
		rapid.SampledFrom([]string{"", "studio", "org/some-model-4bit", "世界の模型", "a\x1b[31mred\x1b]0;x\a", "e\u0301\u0301\u0301\u0301", "👩‍👩‍👧", "\u202eevil", "tab\tnew\nline"}),
		rapid.StringN(0, 30, 90),
	).Draw(t, "text")
}

func drawBytes(t *rapid.T) int64 { return rapid.Int64Range(-1, 1<<62).Draw(t, "bytes") }

func drawSnapshot(t *rapid.T, at time.Time) *cluster.Snapshot {
	s := &cluster.Snapshot{At: at, Cluster: drawText(t), Totals: cluster.Totals{
		Tokens: drawBytes(t), Failed: drawBytes(t), TokensPerSecond: rapid.Float64().Draw(t, "rate"),
	}}
	s.Controller = cluster.Controller{Version: drawText(t), HTTP: drawText(t), StartedAt: at.Add(-time.Hour)}
	for i := range rapid.IntRange(0, 12).Draw(t, "nodes") {
		s.Nodes = append(s.Nodes, drawNode(t, i, at))
	}
	for i := range rapid.IntRange(0, 30).Draw(t, "requests") {
		r := cluster.RequestStatus{
			ID: cluster.RequestID(drawText(t) + strconv.Itoa(i)), Model: drawText(t), Node: cluster.NodeID("n" + strconv.Itoa(i%7)),
			State:   rapid.SampledFrom([]cluster.RequestState{"queued", "loading", "prefill", "streaming", "new\x1bstate"}).Draw(t, "state"),
			Attempt: i % 3, Tokens: rapid.IntRange(-1, 1<<40).Draw(t, "tokens"),
			Since: at.Add(-time.Duration(rapid.Int64Range(-1e9, 1e18).Draw(t, "age"))),
		}
		if r.State == cluster.RequestStreaming {
			r.FirstToken = &r.Since
		}
		s.Requests = append(s.Requests, r)
	}
	return s
}

func drawNode(t *rapid.T, i int, at time.Time) cluster.Node {
	n := cluster.Node{
		ID: cluster.NodeID("n" + strconv.Itoa(i)), Name: drawText(t), Reason: drawText(t), Version: drawText(t), LastSeen: at,
		State: rapid.SampledFrom([]cluster.NodeState{
			cluster.NodeJoining, cluster.NodeReady, cluster.NodeDraining, cluster.NodeSuspect, cluster.NodeDown, "",
		}).Draw(t, "state"),
		BudgetBytes: drawBytes(t), PlannedBytes: drawBytes(t), Hardware: cluster.Hardware{Chip: drawText(t)},
		Models: []cluster.Model{{Name: drawText(t), Digest: drawText(t), WeightBytes: drawBytes(t)}},
	}
	if rapid.Bool().Draw(t, "readings") {
		f := rapid.Float64().Draw(t, "percent")
		n.Load = cluster.Load{CPUPercent: &f, GPUPercent: &f, PowerWatts: &f}
	}
	for range rapid.IntRange(0, 3).Draw(t, "replicas") {
		n.Replicas = append(n.Replicas, cluster.Replica{
			Model: drawText(t), Reason: drawText(t), ResidentBytes: drawBytes(t), Running: i, Slots: rapid.IntRange(0, 100000).Draw(t, "slots"),
			State: rapid.SampledFrom([]cluster.ReplicaState{
				cluster.ReplicaLoading, cluster.ReplicaReady, cluster.ReplicaEvicting, cluster.ReplicaFailed, cluster.ReplicaQuarantined, "?",
			}).Draw(t, "state"),
			TokensPerSecond: rapid.Float64().Draw(t, "rate"),
		})
	}
	return n
}

func drawEvents(t *rapid.T, at time.Time) []cluster.Event {
	var out []cluster.Event
	for range rapid.IntRange(0, 5).Draw(t, "events") {
		out = append(out, cluster.Event{At: at, Kind: cluster.EventKind(drawText(t)), Message: drawText(t)})
	}
	return out
}

// BenchmarkFrame draws a large cluster on a large screen, once for every Snapshot.
func BenchmarkFrame(b *testing.B) {
	s := newScreenTest(b, chart.Braille, 200, 60)
	snap := largeSnapshot(50, 200)
	b.ReportAllocs()
	for b.Loop() {
		next := *snap
		next.At = next.At.Add(100 * time.Millisecond)
		snap = &next
		s.snapshot(snap)
		if len(s.content()) == 0 {
			b.Fatal("empty frame")
		}
	}
}

func largeSnapshot(nodes, requests int) *cluster.Snapshot {
	at := time.Unix(1_800_000_000, 0).UTC()
	s := &cluster.Snapshot{At: at, Cluster: "rack"}
	percent := 42.0
	for i := range nodes {
		n := cluster.Node{
			ID: cluster.NodeID("n-" + strconv.Itoa(i)), Name: "mini-" + strconv.Itoa(i), State: cluster.NodeReady, LastSeen: at,
			Hardware: cluster.Hardware{Chip: "Apple M4 Pro"}, BudgetBytes: 48 << 30, PlannedBytes: 20 << 30,
			Load: cluster.Load{CPUPercent: &percent, GPUPercent: &percent},
		}
		for j := range 6 {
			name := "mlx-community/Qwen3-" + strconv.Itoa(j) + "B-4bit"
			n.Models = append(n.Models, cluster.Model{Name: name, Digest: "sha256:00"})
			if j < 2 {
				n.Replicas = append(n.Replicas, cluster.Replica{Model: name, State: cluster.ReplicaReady, Slots: 8, Running: 2, TokensPerSecond: 61})
			}
		}
		s.Nodes = append(s.Nodes, n)
	}
	for i := range requests {
		s.Requests = append(s.Requests, cluster.RequestStatus{
			ID: cluster.RequestID("r-" + strconv.Itoa(i)), Model: "mlx-community/Qwen3-1B-4bit", Node: s.Nodes[i%nodes].ID,
			State: cluster.RequestStreaming, Attempt: 1, Tokens: i * 10, Since: at, FirstToken: &at,
		})
	}
	return s
}
