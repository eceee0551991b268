package tui

import (
	"strings"
	"time"

	"charm.land/bubbles/v2/key"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/tui/chart"
)

// quietAfter is how long a connected feed may be silent before the footer tells the age of the data.
const quietAfter = 5 * time.Second

// footerPane is the last line: keys at the left, the state of the feed at the right.
type footerPane struct {
	*look
	keys    []key.Binding
	err     *cluster.Error // why there is no connection; nil while there is one
	hasData bool
	old     time.Duration // since the newest data came, or since the pause
	paused  bool
	filter  string
	typing  bool
	dropped int64
}

// Render returns the line, and h-1 empty ones.
func (p *footerPane) Render(w, h int) []string {
	l := p.line(w)
	l.skip(1)
	l.left--
	switch {
	case p.typing:
		p.input(l)
	case p.err != nil:
		p.trouble(l)
	default:
		l.spread(p.help(), p.state(), 2)
	}
	l.left++
	return append([]string{l.String()}, blank(w, h-1)...)
}

// input draws the filter while it is typed; its end stays in sight.
func (p *footerPane) input(l *line) {
	l.put("filter: ", p.key)
	hint := "enter keep   esc clear"
	room := l.left - 1
	if l.left > width(hint)+24 {
		room -= width(hint) + 2
	}
	text := p.filter
	for width(text) > room && text != "" {
		text = text[len(string([]rune(text)[:1])):]
	}
	l.put(text, p.strong)
	cursor := "█"
	if p.symbols == chart.ASCII {
		cursor = "_"
	}
	l.put(cursor, p.accent)
	if l.left > width(hint) {
		l.skip(l.left - width(hint))
		l.put(hint, p.dim)
	}
}

func (p *footerPane) help() []seg {
	out := make([]seg, 0, len(p.keys))
	for i, k := range p.keys {
		out = append(out, seg{k.Help().Key + " " + k.Help().Desc, p.dim, i + 1})
	}
	return out
}

// trouble says why the cluster is out of reach, and what to do, as far as there is room.
func (p *footerPane) trouble(l *line) {
	right := fitSegs(p.state(), l.left, 2)
	room := l.left - segsWidth(right, 2) - 2
	pieces := []seg{{"q quit", p.dim, 0}, {p.err.Message, p.bad, 0}, {p.err.Hint, p.dim, 0}}
	for _, s := range pieces {
		text, n := clip(s.text, room, p.marks.ellipsis)
		if n < 4 {
			continue
		}
		l.put(text, s.paint)
		l.skip(2)
		room -= n + 2
	}
	l.skip(l.left - segsWidth(right, 2))
	l.segs(right, 2)
}

// state says how fresh the screen is, in words.
func (p *footerPane) state() []seg {
	var out []seg
	if p.filter != "" && !p.typing {
		out = append(out, seg{"filter: " + p.filter, p.accent, 2})
	}
	if p.dropped > 0 {
		out = append(out, seg{grouped(p.dropped) + " events dropped", p.warn, 1})
	}
	dots := strings.Repeat(".", 3)
	if p.symbols != chart.ASCII {
		dots = "…"
	}
	switch {
	case p.err != nil && p.hasData:
		return append(out, seg{p.sign("◐", "~", p.bad).glyph + " reconnecting" + dots + " data " + age(p.old) + " old", p.bad, 0})
	case !p.hasData:
		return append(out, seg{p.sign("◐", "~", p.busy).glyph + " connecting" + dots, p.busy, 0})
	case p.paused:
		return append(out, seg{p.marks.paused + " paused " + age(p.old), p.warn, 0})
	case p.old >= quietAfter:
		return append(out, seg{p.sign("◌", "?", p.warn).glyph + " no news for " + age(p.old), p.warn, 0})
	}
	return append(out, seg{p.sign("●", "*", p.ok).glyph + " live", p.ok, 0})
}
