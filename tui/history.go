package tui

import (
	"math"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/tui/chart"
)

const (
	seriesLength = 512 // seconds
	// bridged is how many seconds without a sample the last value stands for; more is a gap.
	bridged = 3
	// scales follow what charts can show: the whole cluster's, and the short ones of the nodes.
	chartSpan = 300
	sparkSpan = 120
)

// series keeps one value for each of the last seriesLength seconds; NaN where there is none. The zero value is empty.
type series struct {
	ring [seriesLength]float64
	last int64 // second of the newest value
	size int   // seconds since the first value, at most seriesLength
}

// add notes the value at a time; a later one in the same second replaces it.
func (s *series) add(at time.Time, v float64) {
	second := at.Unix()
	missed := second - s.last
	switch {
	case s.size == 0, missed < 0, missed > seriesLength: // first, or a clock that was set
		s.size, s.last = 0, second-1
	case missed > 1:
		fill := math.NaN()
		if missed <= bridged {
			fill = s.ring[s.last%seriesLength]
		}
		for t := s.last + 1; t < second; t++ {
			s.ring[t%seriesLength] = fill
		}
	}
	s.size = min(s.size+int(second-s.last), seriesLength)
	s.last = second
	s.ring[second%seriesLength] = v
}

// window returns the n seconds up to end, oldest first.
func (s *series) window(end time.Time, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		second := end.Unix() - int64(n-1-i)
		if behind := s.last - second; behind >= 0 && behind < int64(s.size) {
			out[i] = s.ring[second%seriesLength]
		} else {
			out[i] = math.NaN()
		}
	}
	return out
}

// meter measures the rate of one request over the last two seconds or so.
type meter struct {
	at     [8]time.Time
	tokens [8]int
	n      int // points taken
}

const meterEvery = 250 * time.Millisecond

func (m *meter) add(at time.Time, tokens int) {
	if last := (m.n + len(m.at) - 1) % len(m.at); m.n > 0 && at.Sub(m.at[last]) < meterEvery {
		return
	}
	m.at[m.n%len(m.at)], m.tokens[m.n%len(m.at)] = at, tokens
	m.n++
}

// rate returns tokens per second up to now; false while too little is known.
func (m *meter) rate(at time.Time, tokens int) (float64, bool) {
	if m.n == 0 {
		return 0, false
	}
	oldest := 0
	if m.n > len(m.at) {
		oldest = m.n % len(m.at)
	}
	span := at.Sub(m.at[oldest])
	if span < 2*meterEvery {
		return 0, false
	}
	return max(float64(tokens-m.tokens[oldest]), 0) / span.Seconds(), true
}

// history is what Snapshots do not hold: how things were before. It forgets nodes and requests that are gone.
type history struct {
	rate, running series
	nodes         map[cluster.NodeID]*series
	meters        map[cluster.RequestID]*meter
}

func newHistory() *history {
	return &history{nodes: map[cluster.NodeID]*series{}, meters: map[cluster.RequestID]*meter{}}
}

func (h *history) add(s *cluster.Snapshot) {
	h.rate.add(s.At, s.Totals.TokensPerSecond)
	h.running.add(s.At, float64(len(s.Requests)))
	nodes := make(map[cluster.NodeID]*series, len(s.Nodes))
	for i := range s.Nodes {
		n := &s.Nodes[i]
		line := h.nodes[n.ID]
		if line == nil {
			line = &series{}
		}
		if n.State != cluster.NodeDown {
			line.add(s.At, nodeRate(n))
		}
		nodes[n.ID] = line
	}
	meters := make(map[cluster.RequestID]*meter, len(s.Requests))
	for i := range s.Requests {
		r := &s.Requests[i]
		m := h.meters[r.ID]
		if m == nil {
			m = &meter{}
		}
		m.add(s.At, r.Tokens)
		meters[r.ID] = m
	}
	h.nodes, h.meters = nodes, meters
}

// requestRate returns the current rate of a request, or its average while that is all there is.
func (h *history) requestRate(s *cluster.Snapshot, r *cluster.RequestStatus) float64 {
	if r.State != cluster.RequestStreaming || r.FirstToken == nil {
		return 0
	}
	if m := h.meters[r.ID]; m != nil {
		if f, ok := m.rate(s.At, r.Tokens); ok {
			return f
		}
	}
	if span := s.At.Sub(*r.FirstToken); span >= meterEvery {
		return float64(max(r.Tokens-1, 0)) / span.Seconds()
	}
	return 0
}

// scales are the heights of the charts; they change late, so that charts do not jump.
type scales struct{ rate, running, nodes float64 }

func (c *scales) follow(h *history, at time.Time) {
	c.rate = chart.Rescale(c.rate, chart.Peak(h.rate.window(at, chartSpan)))
	c.running = chart.Rescale(c.running, chart.Peak(h.running.window(at, chartSpan)))
	peak := 0.0
	for _, n := range h.nodes {
		peak = max(peak, chart.Peak(n.window(at, sparkSpan)))
	}
	c.nodes = chart.Rescale(c.nodes, peak)
}

func nodeRate(n *cluster.Node) float64 {
	sum := 0.0
	for i := range n.Replicas {
		sum += n.Replicas[i].TokensPerSecond
	}
	return sum
}
