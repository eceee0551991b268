package tui

import (
	"cmp"
	"slices"
	"strings"
)

// column is one column of a table. It has at least its width. Of what a wide screen has left, names grow first, as far
// as they are long, then those that fill whatever there is, up to most. On a narrow screen columns go away, highest rank
// first; rank 0 stays. No width depends on numbers or on requests, so nothing jumps when those change.
type column[T any] struct {
	title string
	width int
	names nameKind // whose length it grows to
	most  int      // width that it fills
	needs nameKind // without one of these in the cluster the column goes away
	right bool
	rank  int
	draw  func(k *look, l *line, w int, row *T)
}

// nameKind says what names a column holds; names change seldom.
type nameKind uint8

const (
	noNames nameKind = iota
	nodeNames
	chipNames
	modelNames  // short
	wholeNames  // the same with organisation or folder
	loadedNames // of all models on one node, short
	gpuReadings // not a name: whether any node has them
	wattReadings
	nameKinds
)

// lengths are those of the longest names in the cluster.
type lengths [nameKinds]int

func (n *lengths) see(kind nameKind, s string) { n[kind] = max(n[kind], min(width(s), longestName)) }

// longestName bounds what one odd name can take from the others.
const longestName = 48

// order is one way to sort rows.
type order[T any] struct {
	name    string
	compare func(a, b *T) int
}

// table shows rows with a cursor that stays on its row, wherever that moves.
type table[T any] struct {
	*look
	columns []column[T]
	orders  []order[T] // the first is how rows come; its compare may be nil
	key     func(*T) string
	match   func(row *T, filter string) bool
	empty   string // what to say where there are no rows

	lengths lengths
	rows    []T // that match the filter, sorted
	all     int // rows before the filter
	by      int // index into orders
	cursor  string
	at      int // where the cursor was last, for when its row goes away
	offset  int
	page    int // rows that were visible last
	focused bool
	drawnAt int // line of the cursor in the last Render, -1 without
}

// set replaces the rows.
func (t *table[T]) set(rows []T, filter string) {
	t.all = len(rows)
	t.rows = t.rows[:0]
	for i := range rows {
		if filter == "" || t.match(&rows[i], filter) {
			t.rows = append(t.rows, rows[i])
		}
	}
	if c := t.orders[t.by].compare; c != nil {
		slices.SortStableFunc(t.rows, func(a, b T) int { return cmp.Or(c(&a, &b), cmp.Compare(t.key(&a), t.key(&b))) })
	}
	t.follow()
}

// follow finds the row of the cursor again; where it is gone, its neighbour takes over.
func (t *table[T]) follow() {
	if t.cursor == "" {
		return
	}
	i := slices.IndexFunc(t.rows, func(r T) bool { return t.key(&r) == t.cursor })
	switch {
	case i >= 0:
		t.at = i
	case len(t.rows) == 0:
		t.at = 0
	default:
		t.at = min(t.at, len(t.rows)-1)
		t.cursor = t.key(&t.rows[t.at])
	}
}

// move moves the cursor by so many rows; the first move puts it on the first visible row.
func (t *table[T]) move(by int) {
	if len(t.rows) == 0 {
		return
	}
	if t.cursor == "" {
		t.at = min(t.offset, len(t.rows)-1)
		if by > 1 || by < -1 {
			t.at += by
		}
	} else {
		t.at += by
	}
	t.at = min(max(t.at, 0), len(t.rows)-1)
	t.cursor = t.key(&t.rows[t.at])
}

func (t *table[T]) clear()  { t.cursor = "" }
func (t *table[T]) resort() { t.by = (t.by + 1) % len(t.orders) }

// selected returns the row under the cursor, nil without one.
func (t *table[T]) selected() *T {
	if t.cursor == "" || t.at >= len(t.rows) {
		return nil
	}
	return &t.rows[t.at]
}

// notes says at the right of a title what is not plain to see: the order, and what is out of sight.
func (t *table[T]) notes() string {
	var parts []string
	if t.by > 0 {
		parts = append(parts, "by "+t.orders[t.by].name)
	}
	if len(t.rows) > t.page && t.page > 0 {
		parts = append(parts, grouped(int64(t.offset+1))+"-"+grouped(int64(min(t.offset+t.page, len(t.rows))))+" of "+grouped(int64(len(t.rows))))
	}
	return strings.Join(parts, " "+t.marks.dot+" ")
}

// nothing says why there are no rows.
func (t *table[T]) nothing() string {
	if t.all > 0 {
		return "nothing matches the filter"
	}
	return t.empty
}

// number says how many rows there are, and of how many where a filter hides some.
func (t *table[T]) number() string {
	if len(t.rows) < t.all {
		return grouped(int64(len(t.rows))) + "/" + grouped(int64(t.all))
	}
	return grouped(int64(t.all))
}

// scroll brings the cursor into a window of n rows.
func (t *table[T]) scroll(n int) {
	t.page = n
	if t.cursor != "" {
		t.offset = min(t.offset, t.at)
		t.offset = max(t.offset, t.at-n+1)
	}
	t.offset = max(min(t.offset, len(t.rows)-n), 0)
}

// Render returns h lines of w columns: a line of titles, then rows.
func (t *table[T]) Render(w, h int) []string {
	out := make([]string, 0, max(h, 0))
	t.drawnAt = -1
	if h <= 0 {
		t.page = 0
		return out
	}
	gap := 2
	if w < 100 {
		gap = 1
	}
	widths := fit(t.columns, &t.lengths, w-3, gap) // the pointer, and a blank at the end
	out = append(out, t.titles(widths, w, gap))
	t.scroll(h - 1)
	if len(t.rows) == 0 && h > 1 {
		l := t.line(w)
		l.skip(2)
		l.put(t.nothing(), t.dim)
		out = append(out, l.String())
	}
	for i := t.offset; i < len(t.rows) && len(out) < h; i++ {
		out = append(out, t.row(i, widths, w, gap, len(out)))
	}
	for len(out) < h {
		out = append(out, strings.Repeat(" ", w))
	}
	return out
}

func (t *table[T]) titles(widths []int, w, gap int) string {
	l := t.line(w)
	l.skip(2)
	isFirst := true
	for i, n := range widths {
		if n == 0 {
			continue
		}
		if !isFirst {
			l.skip(gap)
		}
		isFirst = false
		if t.columns[i].right {
			l.number(t.columns[i].title, n, t.dim)
		} else {
			l.cell(t.columns[i].title, n, t.dim)
		}
	}
	return l.String()
}

func (t *table[T]) row(i int, widths []int, w, gap, at int) string {
	l := t.line(w)
	row := &t.rows[i]
	switch {
	case t.cursor == "" || i != t.at:
		l.skip(2)
	case t.focused:
		t.drawnAt = at
		l.cell(t.marks.pointer, 2, t.focus)
	default:
		l.cell(t.marks.pointer, 2, t.dim)
	}
	isFirst := true
	for c, n := range widths {
		if n == 0 {
			continue
		}
		if !isFirst {
			l.skip(gap)
		}
		isFirst = false
		before := l.left
		t.columns[c].draw(t.look, l, n, row)
		l.skip(n - (before - l.left))
	}
	return l.String()
}

// fit gives every column its width in w columns; 0 for those that are left out.
func fit[T any](columns []column[T], names *lengths, w, gap int) []int {
	widths := make([]int, len(columns))
	need := -gap
	for i := range columns {
		if needs := columns[i].needs; needs != noNames && names[needs] == 0 {
			continue
		}
		widths[i] = columns[i].width
		need += widths[i] + gap
	}
	for need > w {
		worst := -1
		for i := range columns {
			if widths[i] > 0 && columns[i].rank > 0 && (worst < 0 || columns[i].rank >= columns[worst].rank) {
				worst = i
			}
		}
		if worst < 0 {
			break
		}
		need -= widths[worst] + gap
		widths[worst] = 0
	}
	left := grow(widths, w-need, func(i int) int { return names[columns[i].names] })
	grow(widths, left, func(i int) int { return columns[i].most })
	return widths
}

// grow shares out what is left, a column each in turn, as far as each wants, and returns what nobody wanted.
func grow(widths []int, left int, want func(i int) int) int {
	for isGrowing := true; isGrowing && left > 0; {
		isGrowing = false
		for i := range widths {
			if widths[i] > 0 && widths[i] < want(i) && left > 0 {
				widths[i]++
				left--
				isGrowing = true
			}
		}
	}
	return left
}
