package tui

import (
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// eventsKept is how many events the screen remembers.
const eventsKept = 500

// eventsPane lists what happened, newest first.
type eventsPane struct {
	*look
	events []cluster.Event // newest first, those that match the filter
	offset int
	page   int
}

func (p *eventsPane) set(events []cluster.Event, filter string) {
	if filter == "" {
		p.events = events
		return
	}
	p.events = nil
	for _, e := range events {
		if has(filter, e.Message, string(e.Kind), string(e.Node), e.Model, string(e.Request)) {
			p.events = append(p.events, e)
		}
	}
}

func (p *eventsPane) move(by int) { p.offset = max(min(p.offset+by, len(p.events)-p.page), 0) }

func (p *eventsPane) notes() string {
	if len(p.events) <= p.page || p.page == 0 {
		return ""
	}
	return grouped(int64(p.offset+1)) + "-" + grouped(int64(min(p.offset+p.page, len(p.events)))) + " of " + grouped(int64(len(p.events)))
}

// Render returns h lines of w columns.
func (p *eventsPane) Render(w, h int) []string {
	p.page = max(h, 0)
	p.move(0)
	out := make([]string, 0, max(h, 0))
	if len(p.events) == 0 && h > 0 {
		l := p.line(w)
		l.skip(2)
		l.put("nothing happened since this screen opened", p.dim)
		out = append(out, l.String())
	}
	for i := p.offset; i < len(p.events) && len(out) < h; i++ {
		out = append(out, p.row(&p.events[i], w))
	}
	for len(out) < h {
		out = append(out, strings.Repeat(" ", w))
	}
	return out
}

func (p *eventsPane) row(e *cluster.Event, w int) string {
	l := p.line(w)
	l.skip(2)
	if w >= 44 {
		l.cell(e.At.In(p.zone).Format("15:04:05"), 8, p.dim)
		l.skip(2)
	}
	s, word := p.eventSign(e.Kind)
	l.cell(s.glyph, 2, s.paint)
	if w >= 60 {
		l.cell(word, 8, s.paint)
		l.skip(2)
	}
	l.cell(e.Message, l.left, p.text)
	return l.String()
}
