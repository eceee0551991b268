package tui

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/tui/chart"
)

// headerPane is the sum of the cluster in one or two lines.
type headerPane struct {
	*look
	scene *scene
	scale float64 // of the sparkline
}

// sparkMost is how wide the sparkline of the header gets: two minutes in braille.
const sparkMost = 60

// Render returns h lines of w columns.
func (p *headerPane) Render(w, h int) []string {
	if p.scene == nil {
		return blank(w, h)
	}
	if h == 1 {
		l := p.line(w)
		l.skip(1)
		l.left--
		l.spread(p.who()[:2], append(p.nodes(), p.running(), seg{rate(p.snap().Totals.TokensPerSecond) + " tok/s", p.strong, 0}), 2)
		l.left++
		return []string{l.String()}
	}
	first, second := p.line(w), p.line(w)
	for _, l := range []*line{first, second} {
		l.skip(1)
		l.left-- // a blank at the right edge
	}
	first.spread(p.who(), append(p.nodes(), p.running(), p.waiting()), 2)
	p.totals(second)
	first.left++
	second.left++
	return append([]string{first.String(), second.String()}, blank(w, h-2)...)
}

func (p *headerPane) snap() *cluster.Snapshot { return p.scene.snap }

// who says which cluster this is, and since when.
func (p *headerPane) who() []seg {
	s := p.snap()
	name := s.Cluster
	if name == "" {
		name = "cluster"
	}
	out := []seg{{"mlxctl", p.headline, 0}, {name, p.strong, 1}}
	if s.Controller.Version != "" {
		out = append(out, seg{s.Controller.Version, p.dim, 3})
	}
	if !s.Controller.StartedAt.IsZero() {
		out = append(out, seg{"up " + age(s.At.Sub(s.Controller.StartedAt)), p.dim, 2})
	}
	if s.Controller.HTTP != "" {
		out = append(out, seg{s.Controller.HTTP, p.dim, 4})
	}
	return out
}

// nodes counts nodes by state: what is not ready gets its own word.
func (p *headerPane) nodes() []seg {
	ready, all := p.scene.byState[cluster.NodeReady], len(p.snap().Nodes)
	how := p.ok
	switch {
	case ready == 0:
		how = p.bad
	case ready < all:
		how = p.warn
	}
	out := []seg{{fmt.Sprintf("%s %d/%d nodes ready", p.nodeSign(cluster.NodeReady).glyph, ready, all), how, 0}}
	for _, state := range []cluster.NodeState{cluster.NodeDown, cluster.NodeSuspect, cluster.NodeDraining, cluster.NodeJoining} {
		if n := p.scene.byState[state]; n > 0 {
			s := p.nodeSign(state)
			out = append(out, seg{s.glyph + " " + strconv.Itoa(n) + " " + string(state), s.paint, 3})
		}
	}
	return out
}

func (p *headerPane) running() seg {
	n := len(p.scene.requests) - p.scene.queued
	if n == 0 {
		return seg{" 0 running", p.dim, 1}
	}
	return seg{fmt.Sprintf("%2d running", n), p.text, 1}
}

func (p *headerPane) waiting() seg {
	if p.scene.queued == 0 {
		return seg{" 0 queued", p.dim, 2}
	}
	return seg{fmt.Sprintf("%2d queued", p.scene.queued), p.warn, 2}
}

// totals writes the rate with its sparkline at the left and the counters at the right.
func (p *headerPane) totals(l *line) {
	t := p.snap().Totals
	failed := p.dim
	if t.Failed > 0 {
		failed = p.bad
	}
	right := fitSegs([]seg{
		{fmt.Sprintf("%5s tokens", count(t.Tokens)), p.text, 3},
		{fmt.Sprintf("%5s done", count(t.Finished)), p.text, 1},
		{fmt.Sprintf("%2s failed", count(t.Failed)), failed, 0},
		{fmt.Sprintf("%2s cancelled", count(t.Cancelled)), p.dim, 2},
	}, l.left-30, 2)
	l.number(rate(t.TokensPerSecond), 6, p.strong)
	l.put(" tok/s", p.dim)
	l.skip(2)
	spark := bound(l.left-segsWidth(right, 2)-3, 0, sparkMost)
	l.put(chart.Sparkline(p.scene.throughput(p.symbols.Samples(spark)), spark, p.scale, p.symbols), p.chart)
	l.skip(l.left - segsWidth(right, 2))
	l.segs(right, 2)
}

// chartPane draws a series over time with the top of its scale.
type chartPane struct {
	*look
	recent func(n int) []float64
	scale  float64
	paint  paint
}

const axisWidth = 7

// Render returns h lines of w columns.
func (p *chartPane) Render(w, h int) []string {
	if p.recent == nil || w <= axisWidth {
		return blank(w, h)
	}
	inner := w - axisWidth - 1
	rows := chart.Area(p.recent(p.symbols.Samples(inner)), inner, h, p.scale, p.symbols)
	out := make([]string, 0, h)
	for i, row := range rows {
		l := p.line(w)
		label := ""
		switch {
		case i == 0:
			label = axisLabel(p.scale)
		case i == h-1:
			label = "0"
		case h >= 5 && h%2 == 1 && i == h/2 && p.scale/2 == math.Trunc(p.scale/2):
			label = axisLabel(p.scale / 2)
		}
		l.number(label, axisWidth-1, p.dim)
		l.skip(1)
		l.put(row, p.paint)
		out = append(out, l.String())
	}
	return append(out, blank(w, h-len(rows))...)
}

func axisLabel(f float64) string {
	if f < 10 {
		return strings.TrimSuffix(strconv.FormatFloat(f, 'f', 1, 64), ".0")
	}
	return count(int64(f))
}

// span says how much time n columns of a chart show.
func (p *chartPane) span(w int) string {
	seconds := p.symbols.Samples(max(w-axisWidth-3, 0))
	if seconds < 120 {
		return "last " + strconv.Itoa(seconds) + " s"
	}
	return "last " + strconv.FormatFloat(float64(seconds)/60, 'f', 1, 64) + " min"
}
