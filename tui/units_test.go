package tui

import (
	"math"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/tui/chart"
)

func TestNumbers(t *testing.T) {
	t.Parallel()
	f := func(v float64) *float64 { return &v }
	tests := []struct{ got, want string }{
		{count(0), "0"},
		{count(999), "999"},
		{count(9999), "9,999"},
		{count(10_000), "10.0k"},
		{count(99_949), "99.9k"},
		{count(99_950), "100k"},
		{count(999_499), "999k"},
		{count(999_500), "1.0M"},
		{count(4_218_331), "4.2M"},
		{count(-1), "0"},
		{count(math.MaxInt64), "9223372.0T"},
		{grouped(0), "0"},
		{grouped(123), "123"},
		{grouped(1234), "1,234"},
		{grouped(1234567), "1,234,567"},
		{grouped(-123), "-123"},
		{rate(0), "0.0"},
		{rate(math.NaN()), "0.0"},
		{rate(0.06), "0.1"},
		{rate(61.25), "61.2"},
		{rate(999.9), "999.9"},
		{rate(1234.4), "1,234"},
		{size(0), "0 B"},
		{size(1023), "1023 B"},
		{size(1024), "1.0 KiB"},
		{size(44 << 20), "44.0 MiB"},
		{size(144 << 30), "144 GiB"},
		{size(1<<40 - 1), "1.0 TiB"},
		{portion(0, 48<<30), "0.0/48.0 GiB"},
		{portion(12<<30+300<<20, 96<<30), "12.3/96.0 GiB"},
		{portion(44<<20, 6<<30), "44 MiB/6.0 GiB"},
		{portion(1<<30, 2<<40), "1 GiB/2.0 TiB"},
		{portion(512<<30, 2<<40), "0.5/2.0 TiB"},
		{portion(5, 10), "5.0/10.0 B"},
		{percent(nil, "-"), "-"},
		{percent(f(math.NaN()), "-"), "-"},
		{percent(f(3.2), "-"), "3%"},
		{percent(f(99.6), "-"), "100%"},
		{age(-time.Second), "0s"},
		{age(59 * time.Second), "59s"},
		{age(187 * time.Second), "3m07s"},
		{age(2*time.Hour + 5*time.Minute), "2h05m"},
		{age(76 * time.Hour), "3d04h"},
		{age(200 * 24 * time.Hour), "200d"},
		{short(-1), "0ms"},
		{short(85 * time.Millisecond), "85ms"},
		{short(999600 * time.Microsecond), "1.0s"},
		{short(12300 * time.Millisecond), "12s"},
		{base("org/repo"), "repo"},
		{base("/models/a/"), "a/"},
		{base("tiny"), "tiny"},
		{base(""), ""},
	}
	for i, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("case %d = %q, want %q", i, tt.got, tt.want)
		}
	}
}

func TestSeriesKeepsGaps(t *testing.T) {
	t.Parallel()
	var s series
	at := func(second int) time.Time { return time.Unix(1_800_000_000+int64(second), 0) }
	s.add(at(0), 1)
	s.add(at(0), 2) // the later one of a second stands
	s.add(at(2), 3) // one second without: the last value goes on
	s.add(at(8), 4) // more: a gap
	want := []float64{math.NaN(), 2, 2, 3, math.NaN(), math.NaN(), math.NaN(), math.NaN(), math.NaN(), 4, math.NaN()}
	for i, got := range s.window(at(9), len(want)) {
		if got != want[i] && !(math.IsNaN(got) && math.IsNaN(want[i])) {
			t.Errorf("second %d = %v, want %v", i-1, got, want[i])
		}
	}
	s.add(at(-100), 7) // the clock was set back
	if got := s.window(at(-100), 2); got[1] != 7 || !math.IsNaN(got[0]) {
		t.Errorf("after the clock was set back: %v, want only the new value", got)
	}
	s.add(at(100_000), 8)
	if got := s.window(at(100_000), seriesLength); got[seriesLength-1] != 8 || !math.IsNaN(got[0]) {
		t.Error("after a long silence old values show up again")
	}
}

func TestRequestRateIsCurrent(t *testing.T) {
	t.Parallel()
	h := newHistory()
	start := time.Unix(1_800_000_000, 0)
	snap := &cluster.Snapshot{Requests: []cluster.RequestStatus{{ID: "r", State: cluster.RequestStreaming, FirstToken: &start}}}
	r := &snap.Requests[0]
	step := func(perSecond int) float64 {
		for range 40 { // four seconds
			snap.At = start.Add(snap.At.Sub(start) + 100*time.Millisecond)
			r.Tokens += perSecond / 10
			h.add(snap)
		}
		return h.requestRate(snap, r)
	}
	snap.At = start
	if got := step(100); math.Abs(got-100) > 1 {
		t.Errorf("rate = %v, want 100", got)
	}
	if got := step(20); math.Abs(got-20) > 1 {
		t.Errorf("rate = %v after it became slower, want 20", got)
	}
	if got := step(0); got != 0 {
		t.Errorf("rate = %v of a stuck request, want 0", got)
	}
	snap.Requests = nil
	h.add(snap)
	if len(h.meters) != 0 {
		t.Error("a request that is gone is still remembered")
	}
}

// TestLayoutFillsTheScreen checks that the parts of every layout cover each cell of the screen once.
func TestLayoutFillsTheScreen(t *testing.T) {
	t.Parallel()
	for w := leastW; w < 220; w += 7 {
		for h := leastH; h < 80; h++ {
			for _, nodes := range []int{0, 1, 4, 50} {
				for focus := range paneCount {
					lay := arrange(w, h, nodes, focus)
					cells := make([]int, w*h)
					for _, r := range append([]rect{lay.header, lay.charts, lay.footer}, lay.panes[:]...) {
						for y := r.y; y < r.y+r.h; y++ {
							for x := r.x; x < r.x+r.w; x++ {
								cells[y*w+x]++
							}
						}
					}
					for i, n := range cells {
						if n != 1 {
							t.Fatalf("%dx%d, %d nodes, focus %d: cell %d,%d is covered %d times", w, h, nodes, focus, i%w, i/w, n)
						}
					}
					if lay.panes[focus].h < 2 {
						t.Fatalf("%dx%d: the focused pane %d is %d high", w, h, focus, lay.panes[focus].h)
					}
				}
			}
		}
	}
}

func TestSymbols(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		env  []string
		want chart.Symbols
	}{
		{"", []string{"LANG=de_DE.UTF-8", "TERM=xterm-256color"}, chart.Braille},
		{"auto", []string{"LANG=C.utf8"}, chart.Braille},
		{"auto", []string{"LANG=C"}, chart.ASCII},
		{"auto", nil, chart.ASCII},
		{"auto", []string{"LANG=C.UTF-8", "LC_ALL=POSIX"}, chart.ASCII},
		{"auto", []string{"LANG=C", "LC_CTYPE=C.UTF-8"}, chart.Braille},
		{"auto", []string{"LANG=C.UTF-8", "TERM=linux"}, chart.ASCII},
		{"auto", []string{"LANG=C.UTF-8", "TERM=dumb"}, chart.ASCII},
		{"block", nil, chart.Block},
		{"braille", []string{"LANG=C"}, chart.Braille},
		{"ascii", []string{"LANG=C.UTF-8"}, chart.ASCII},
	}
	for _, tt := range tests {
		if got, err := symbols(tt.name, tt.env); err != nil || got != tt.want {
			t.Errorf("symbols(%q, %v) = %v, %v, want %v", tt.name, tt.env, got, err, tt.want)
		}
	}
	if _, err := symbols("hearts", nil); cluster.CodeOf(err) != cluster.CodeInvalid {
		t.Errorf("symbols of an unknown name: %v, want %s", err, cluster.CodeInvalid)
	}
}

// TestASCIIIsASCII draws every frame of a recording and finds nothing else.
func TestASCIIIsASCII(t *testing.T) {
	t.Parallel()
	s := newScreenTest(t, chart.ASCII, 200, 60)
	s.play(fourMacs)
	for _, keys := range [][]string{{"tab"}, {"j", "enter"}, {"esc", "?"}, {"j", "/"}, {"esc", "p"}} {
		s.keys(keys...)
		for _, r := range s.text() {
			if r > '~' {
				t.Fatalf("after %v the screen holds %q:\n%s", keys, r, s.text())
			}
		}
	}
	s.lose(time.Minute)
	for _, r := range s.text() {
		if r > '~' {
			t.Fatalf("a lost cluster shows %q", r)
		}
	}
}

func TestChoicesOfARequestAreToldApart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		id   cluster.RequestID
		w    int
		want string
	}{
		{"r-ABCDEFGHIJKLMNOP", 8, "r-ABCDEF"},
		{"r-ABCDEFGHIJKLMNOP-1", 8, "r-ABCD-1"},
		{"r-ABCDEFGHIJKLMNOP-7", 12, "r-ABCDEFGH-7"},
		{"r-AB-7", 8, "r-AB-7"},
		{"r-ABCDEFGHIJKLMNOP-x", 8, "r-ABCDEF"},
	} {
		if got := shortID(c.id, c.w); got != c.want {
			t.Errorf("%s in %d columns is %q, want %q", c.id, c.w, got, c.want)
		}
	}
}
