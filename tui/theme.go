package tui

import (
	"strings"

	"charm.land/lipgloss/v2"
)

// theme names what styles are for. The default uses the sixteen colours of the terminal's own palette, so that it fits
// dark and light ones without asking the terminal anything, and leaves text in the terminal's own colour.
type theme struct {
	text, strong, dim       lipgloss.Style
	border, focus, title    lipgloss.Style
	ok, busy, warn, bad     lipgloss.Style
	accent, meter, chart    lipgloss.Style
	selected, key, headline lipgloss.Style
}

func ansiTheme() theme {
	plain := lipgloss.NewStyle()
	red, green, yellow := plain.Foreground(lipgloss.Red), plain.Foreground(lipgloss.Green), plain.Foreground(lipgloss.Yellow)
	blue, cyan := plain.Foreground(lipgloss.Blue), plain.Foreground(lipgloss.Cyan)
	return theme{
		text: plain, strong: plain.Bold(true), dim: plain.Faint(true),
		border: plain.Faint(true), focus: cyan, title: plain.Bold(true),
		ok: green, busy: cyan, warn: yellow, bad: red.Bold(true),
		accent: cyan, meter: blue, chart: green,
		selected: plain.Bold(true), key: plain.Bold(true), headline: cyan.Bold(true),
	}
}

// staleTheme is for what was true when the cluster was last heard of: faint, without colour.
func staleTheme() theme {
	t := ansiTheme()
	for _, s := range []*lipgloss.Style{
		&t.text, &t.strong, &t.dim, &t.title, &t.ok, &t.busy, &t.warn, &t.bad, &t.accent, &t.meter, &t.chart, &t.selected,
	} {
		*s = lipgloss.NewStyle().Faint(true)
	}
	return t
}

// paint is a style as the bytes before and after the text, which costs nothing to apply.
type paint struct{ on, off string }

func newPaint(s lipgloss.Style) paint {
	on, off, _ := strings.Cut(s.Render("x"), "x")
	return paint{on, off}
}

// paints are the styles of a theme, ready to use.
type paints struct {
	text, strong, dim       paint
	border, focus, title    paint
	ok, busy, warn, bad     paint
	accent, meter, chart    paint
	selected, key, headline paint
}

func newPaints(t theme) paints {
	return paints{
		text: newPaint(t.text), strong: newPaint(t.strong), dim: newPaint(t.dim),
		border: newPaint(t.border), focus: newPaint(t.focus), title: newPaint(t.title),
		ok: newPaint(t.ok), busy: newPaint(t.busy), warn: newPaint(t.warn), bad: newPaint(t.bad),
		accent: newPaint(t.accent), meter: newPaint(t.meter), chart: newPaint(t.chart),
		selected: newPaint(t.selected), key: newPaint(t.key), headline: newPaint(t.headline),
	}
}
