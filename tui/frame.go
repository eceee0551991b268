package tui

import "strings"

// screen puts blocks of finished lines together. Blocks that share a line are added from left to right.
type screen struct{ rows []strings.Builder }

func newScreen(w, h int) *screen {
	s := &screen{rows: make([]strings.Builder, h)}
	for i := range s.rows {
		s.rows[i].Grow(2 * w)
	}
	return s
}

func (s *screen) add(r rect, lines []string) {
	for i, l := range lines {
		s.rows[r.y+i].WriteString(l)
	}
}

func (s *screen) String() string {
	n := len(s.rows)
	for i := range s.rows {
		n += s.rows[i].Len()
	}
	var b strings.Builder
	b.Grow(n)
	for i := range s.rows {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(s.rows[i].String())
	}
	return b.String()
}

// caption is the title of a pane.
type caption struct {
	name, number, notes string
	focused             bool
}

// frame draws what draw returns with a border, or a line above; then the caption, which may tell what became of it.
func (k *look) frame(r rect, boxed bool, draw func(w, h int) []string, about func() caption) []string {
	if r.h <= 0 {
		return nil
	}
	w, h := r.w, r.h-1
	if boxed {
		w, h = r.w-2, r.h-2
	}
	inside := draw(w, h)
	c := about()
	edge := k.border
	if c.focused {
		edge = k.focus
	}
	if !boxed {
		return append([]string{k.caption(r.w, k.marks.across, k.marks.across, c, edge)}, inside...)
	}
	out := make([]string, 0, r.h)
	out = append(out, k.caption(r.w, k.marks.corner[0], k.marks.corner[1], c, edge))
	side := edge.on + k.marks.down + edge.off
	for _, l := range inside {
		out = append(out, side+l+side)
	}
	bottom := k.line(r.w)
	bottom.put(k.marks.corner[2], edge)
	bottom.fill(k.marks.across, r.w-2, edge)
	bottom.put(k.marks.corner[3], edge)
	return append(out, bottom.String())
}

// caption draws the upper edge of a pane: ╭─ ▸ nodes 4 ─────── by tok/s ─╮.
func (k *look) caption(w int, first, last string, c caption, edge paint) string {
	l := k.line(w)
	l.put(first, edge)
	l.fill(k.marks.across, 1, edge)
	if c.focused {
		l.put(k.marks.pointer, edge)
	} else {
		l.fill(k.marks.across, 1, edge)
	}
	l.skip(1)
	room := max(l.left-4, 0)
	name, n := clip(c.name, room, k.marks.ellipsis)
	title := k.title
	if c.focused {
		title = k.headline
	}
	l.put(name, title)
	if c.number != "" && n+1+width(c.number) <= room {
		l.skip(1)
		l.put(c.number, k.dim)
	}
	l.skip(1)
	if notes := width(c.notes); notes > 0 && l.left >= notes+6 {
		l.fill(k.marks.across, l.left-notes-4, edge)
		l.skip(1)
		l.put(c.notes, k.dim)
		l.skip(1)
	}
	l.fill(k.marks.across, l.left-1, edge)
	l.put(last, edge)
	return l.String()
}

// blank is h empty lines of w columns.
func blank(w, h int) []string {
	out := make([]string, max(h, 0))
	for i := range out {
		out[i] = strings.Repeat(" ", max(w, 0))
	}
	return out
}

// centred puts short lines into the middle of a space.
func (k *look) centred(w, h int, lines ...seg) []string {
	out := blank(w, h)
	y := max((h-len(lines))/2, 0)
	for i, s := range lines {
		if y+i >= h {
			break
		}
		l := k.line(w)
		text, n := clip(s.text, w, k.marks.ellipsis)
		l.skip((w - n) / 2)
		l.put(text, s.paint)
		out[y+i] = l.String()
	}
	return out
}
