package tui

import (
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// View returns the frame. It is asked for after every message and composes only when something changed.
func (m *model) View() tea.View {
	if m.isDirty {
		m.frame, m.cursor = m.compose()
		m.isDirty = false
	}
	v := tea.NewView(m.frame)
	v.AltScreen, v.ReportFocus = true, true
	v.WindowTitle, v.Cursor = m.windowTitle(), m.cursor
	return v
}

func (m *model) windowTitle() string {
	switch {
	case m.title != "":
		return m.title
	case m.shown != nil && m.shown.snap.Cluster != "":
		return "mlxctl " + m.live.marks.dot + " " + m.shown.snap.Cluster
	}
	return "mlxctl"
}

// look is faint while what is shown may no longer be true.
func (m *model) look() *look {
	if m.err != nil && m.shown != nil {
		return m.stale
	}
	return m.live
}

// compose draws everything: exactly h lines of exactly w columns. The real cursor stands on the row of the focused
// pane's own, where screen readers look for it.
func (m *model) compose() (string, *tea.Cursor) {
	if m.w <= 0 || m.h <= 0 {
		return "", nil
	}
	k := m.look()
	m.nodes.look, m.requests.look, m.replicas.look, m.events.look, m.detail.look = k, k, k, k, k
	nodes := 0
	if m.shown != nil {
		nodes = m.nodes.all
	}
	lay := arrange(m.w, m.h, nodes, m.focus)
	if lay.tooSmall {
		return strings.Join(m.small(), "\n"), nil
	}
	s := newScreen(m.w, m.h)
	s.add(lay.header, m.header(k, lay.header))
	var cursor *tea.Cursor
	switch {
	case m.shown == nil:
		s.add(lay.body, m.welcome(lay.body))
	case m.detail.isOpen():
		s.add(lay.body, k.frame(lay.body, lay.boxed, m.detail.Render, m.detail.caption))
	default:
		cursor = m.panes(s, k, &lay)
	}
	s.add(lay.footer, m.footer().Render(lay.footer.w, lay.footer.h))
	frame := s.String()
	if m.isHelp {
		help := &helpPane{look: m.live, keys: m.keys}
		return help.over(frame, m.w, m.h), nil
	}
	return frame, cursor
}

func (m *model) header(k *look, r rect) []string {
	p := headerPane{look: k, scene: m.shown, scale: m.scales.rate}
	return p.Render(r.w, r.h)
}

// panes draws the charts and the four panes and returns where the cursor stands.
func (m *model) panes(s *screen, k *look, lay *layout) *tea.Cursor {
	m.charts(s, k, lay.charts)
	m.nodes.focused, m.requests.focused, m.replicas.focused = m.focus == nodesID, m.focus == requestsID, m.focus == replicasID
	draw := [paneCount]func(w, h int) []string{m.nodes.Render, m.requests.Render, m.replicas.Render, m.events.Render}
	var cursor *tea.Cursor
	for id := range paneCount {
		r := lay.panes[id]
		if r.h <= 0 {
			continue
		}
		s.add(r, k.frame(r, lay.boxed, draw[id], func() caption { return m.caption(id) }))
		if at := m.drawnAt(id); at >= 0 && m.focus == id {
			cursor = cursorAt(r, at, lay.boxed)
		}
	}
	return cursor
}

func (m *model) caption(id paneID) caption {
	c := caption{focused: m.focus == id}
	switch id {
	case nodesID:
		c.name, c.number, c.notes = "nodes", m.nodes.number(), m.nodes.notes()
	case requestsID:
		c.name, c.number, c.notes = "requests", m.requests.number(), m.requests.notes()
	case replicasID:
		c.name, c.number, c.notes = m.replicasName(), m.replicas.number(), m.replicas.notes()
	default:
		c.name, c.notes = "events", m.events.notes()
	}
	return c
}

func (m *model) drawnAt(id paneID) int {
	switch id {
	case nodesID:
		return m.nodes.drawnAt
	case requestsID:
		return m.requests.drawnAt
	case replicasID:
		return m.replicas.drawnAt
	default:
		return -1
	}
}

func cursorAt(r rect, line int, isBoxed bool) *tea.Cursor {
	x, y := r.x, r.y+1+line
	if isBoxed {
		x++
	}
	c := tea.NewCursor(x, y)
	c.Shape, c.Blink = tea.CursorUnderline, false
	return c
}

// replicasName says whose models are listed.
func (m *model) replicasName() string {
	if n := m.nodes.selected(); n != nil {
		return "models on " + n.Name
	}
	return "models on all nodes"
}

func (m *model) charts(s *screen, k *look, r rect) {
	if r.h <= 0 {
		return
	}
	left := rect{r.x, r.y, r.w * 3 / 5, r.h}
	right := rect{r.x + left.w, r.y, r.w - left.w, r.h}
	tokens := chartPane{look: k, recent: m.shown.throughput, scale: m.scales.rate, paint: k.chart}
	inFlight := chartPane{look: k, recent: m.shown.inFlight, scale: m.scales.running, paint: k.meter}
	t := m.shown.snap.Totals.TokensPerSecond
	s.add(left, k.frame(left, true, tokens.Render, func() caption {
		return caption{name: "tokens/s", number: rate(t), notes: tokens.span(left.w)}
	}))
	n := strconv.Itoa(len(m.shown.requests))
	s.add(right, k.frame(right, true, inFlight.Render, func() caption {
		return caption{name: "requests", number: n, notes: inFlight.span(right.w)}
	}))
}

func (m *model) footer() *footerPane {
	p := &footerPane{
		look: m.live, keys: m.keys.ShortHelp(), err: m.err, hasData: m.shown != nil, paused: m.isPaused,
		filter: m.filter, typing: m.isTyping, dropped: m.dropped, old: m.clock.Sub(m.came),
	}
	if m.detail.isOpen() {
		p.keys = m.keys.detailHelp()
	}
	if m.isPaused && m.err == nil {
		p.old = m.clock.Sub(m.pausedAt)
	}
	return p
}

// welcome is the body before there is anything to show.
func (m *model) welcome(r rect) []string {
	if m.err == nil {
		return m.live.centred(r.w, r.h, seg{"waiting for the cluster", m.live.dim, 0})
	}
	lines := []seg{{"the cluster is out of reach", m.live.bad, 0}, {m.err.Message, m.live.text, 0}}
	if m.err.Hint != "" {
		lines = append(lines, seg{m.err.Hint, m.live.dim, 0})
	}
	return m.live.centred(r.w, r.h, lines...)
}

// small is what fits a screen that is too small for panes: why, and the sum of the cluster.
func (m *model) small() []string {
	k := m.live
	size := strconv.Itoa(m.w) + m.live.marks.times + strconv.Itoa(m.h)
	least := strconv.Itoa(leastW) + m.live.marks.times + strconv.Itoa(leastH)
	lines := []seg{{"terminal too small " + size, k.strong, 0}, {"needs " + least, k.dim, 0}}
	if m.shown != nil {
		ready, all := m.shown.byState[cluster.NodeReady], len(m.shown.snap.Nodes)
		sum := strconv.Itoa(ready) + "/" + strconv.Itoa(all) + " ready " + k.marks.dot + " " + rate(m.shown.snap.Totals.TokensPerSecond) + " tok/s"
		lines = append(lines, seg{sum, k.text, 0})
	}
	if m.err != nil {
		lines = append(lines, seg{"no connection for " + age(max(m.clock.Sub(m.came), time.Second)), k.bad, 0})
	}
	return k.centred(m.w, m.h, lines...)
}
