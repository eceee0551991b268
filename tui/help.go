package tui

import (
	"strings"

	"charm.land/bubbles/v2/help"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"
)

// helpPane is the box with all keys.
type helpPane struct {
	*look
	keys keyMap
}

// box returns the lines of the box, at most w columns and h lines.
func (p *helpPane) box(w, h int) []string {
	t := ansiTheme()
	m := help.New()
	m.Styles.FullKey, m.Styles.FullDesc = t.key, t.text
	m.Styles.FullSeparator, m.Styles.Ellipsis = t.dim, t.dim
	m.FullSeparator, m.Ellipsis = "   ", p.marks.ellipsis
	groups := p.keys.FullHelp()
	if w < 56 { // one column below the other
		groups[0] = append(groups[0], groups[1]...)
		groups = groups[:1]
	}
	text := strings.Split(m.FullHelpView(groups), "\n")
	inner := 0
	for _, l := range text {
		inner = max(inner, width(ansi.Strip(l)))
	}
	r := rect{w: min(inner+6, w), h: min(len(text)+4, h)}
	return p.frame(r, true, func(w, h int) []string {
		out := blank(w, min(1, h))
		for _, l := range text {
			if len(out) < h {
				out = append(out, fitStyled("  "+l, w))
			}
		}
		return append(out, blank(w, h-len(out))...)
	}, func() caption { return caption{name: "keys", focused: true, notes: "any key closes"} })
}

// over puts the box into the middle of a finished frame.
func (p *helpPane) over(frame string, w, h int) string {
	box := p.box(w, h)
	if len(box) < 3 {
		return frame
	}
	x, y := (w-width(ansi.Strip(box[0])))/2, (h-len(box))/2
	canvas := lipgloss.NewCanvas(w, h)
	canvas.Compose(lipgloss.NewCompositor(
		lipgloss.NewLayer(frame), lipgloss.NewLayer(strings.Join(box, "\n")).X(x).Y(y).Z(1),
	))
	lines := strings.Split(canvas.Render(), "\n")
	for len(lines) < h {
		lines = append(lines, "")
	}
	return strings.Join(lines[:h], "\n")
}

// fitStyled cuts or fills a line that already has styles.
func fitStyled(s string, w int) string {
	n := ansi.StringWidth(s)
	if n > w {
		s = ansi.Truncate(s, w, "")
		n = ansi.StringWidth(s)
	}
	return s + strings.Repeat(" ", w-n)
}
