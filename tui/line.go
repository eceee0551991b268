package tui

import (
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// line writes one row of a fixed number of columns: what does not fit is cut, what is missing becomes blank.
type line struct {
	b    strings.Builder
	left int // columns still free
	tail string
}

func (k *look) line(w int) *line {
	l := &line{left: max(w, 0), tail: k.marks.ellipsis}
	l.b.Grow(w + 96)
	return l
}

// put writes s as wide as it is.
func (l *line) put(s string, p paint) { l.cell(s, width(s), p) }

// cell writes s in exactly w columns, at the left; longer text ends in an ellipsis.
func (l *line) cell(s string, w int, p paint) {
	w = min(w, l.left)
	s, n := clip(s, w, l.tail)
	l.paint(s, n, p)
	l.skip(w - n)
}

// number writes s in exactly w columns, at the right.
func (l *line) number(s string, w int, p paint) {
	w = min(w, l.left)
	s, n := clip(s, w, l.tail)
	l.skip(w - n)
	l.paint(s, n, p)
}

// skip leaves n columns blank.
func (l *line) skip(n int) {
	n = min(n, l.left)
	for range n {
		l.b.WriteByte(' ')
	}
	l.left -= max(n, 0)
}

// fill repeats the one-column character s n times.
func (l *line) fill(s string, n int, p paint) {
	if n = min(n, l.left); n > 0 {
		l.paint(strings.Repeat(s, n), n, p)
	}
}

func (l *line) paint(s string, n int, p paint) {
	if s == "" {
		return
	}
	l.b.WriteString(p.on)
	l.b.WriteString(s)
	l.b.WriteString(p.off)
	l.left -= n
}

// String ends the line and returns it.
func (l *line) String() string {
	l.skip(l.left)
	return l.b.String()
}

// clip cuts s to w columns and returns it with its width.
func clip(s string, w int, tail string) (string, int) {
	n := width(s)
	if n <= w {
		return s, n
	}
	if w <= 0 {
		return "", 0
	}
	if len(s) == n { // ASCII
		return s[:w-min(width(tail), w)] + tail, w
	}
	s = ansi.Truncate(s, w, tail)
	return s, width(s)
}

// seg is a piece of a line that has room for some of its pieces only: those of the highest rank go first.
type seg struct {
	text  string
	paint paint
	rank  int
}

// fitSegs drops pieces, highest rank first, until those left take at most w columns with a gap between two. Pieces of
// rank 0 stay.
func fitSegs(segs []seg, w, gap int) []seg {
	for {
		need, worst := -gap, 0
		for i, s := range segs {
			need += width(s.text) + gap
			if s.rank > segs[worst].rank {
				worst = i
			}
		}
		if need <= w || len(segs) == 0 || segs[worst].rank == 0 {
			return segs
		}
		segs = slices.Concat(segs[:worst], segs[worst+1:])
	}
}

func segsWidth(segs []seg, gap int) int {
	n := 0
	for i, s := range segs {
		if i > 0 {
			n += gap
		}
		n += width(s.text)
	}
	return n
}

func (l *line) segs(segs []seg, gap int) {
	for i, s := range segs {
		if i > 0 {
			l.skip(gap)
		}
		l.put(s.text, s.paint)
	}
}

// spread writes left at the left edge and right at the right edge. Where there is no room for both, pieces of the left
// go first, then pieces of the right.
func (l *line) spread(left, right []seg, gap int) {
	least := segsWidth(fitSegs(left, 0, gap), gap)
	right = fitSegs(right, l.left-least-gap, gap)
	space := l.left - segsWidth(right, gap) - gap
	l.segs(fitSegs(left, space, gap), gap)
	l.skip(l.left - segsWidth(right, gap))
	l.segs(right, gap)
}
