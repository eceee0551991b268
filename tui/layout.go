package tui

// paneID names a pane that can have the focus, in the order of the tab key and of the screen.
type paneID uint8

const (
	nodesID paneID = iota
	requestsID
	replicasID
	eventsID
	paneCount
)

// rect is a part of the screen; one without height is not shown.
type rect struct{ x, y, w, h int }

// layout says what goes where. It depends on the size, the number of nodes and the focus only, so that nothing moves
// while requests come and go. Its parts fill the screen exactly.
type layout struct {
	tooSmall bool
	boxed    bool // panes have a border all round, else a line above
	header   rect
	charts   rect
	body     rect // all between header and footer
	panes    [paneCount]rect
	footer   rect
}

// Sizes at which the layout changes.
const (
	leastW, leastH   = 40, 10  // below: only a note and the sum
	boxedW, boxedH   = 120, 24 // from here: boxes, models and events side by side
	chartsW, chartsH = 160, 36 // from here: charts, and requests beside models and events
)

func arrange(w, h, nodes int, focus paneID) layout {
	if w < leastW || h < leastH {
		return layout{tooSmall: true}
	}
	lay := layout{boxed: w >= boxedW && h >= boxedH}
	head := 2
	if h < 14 {
		head = 1
	}
	lay.header = rect{0, 0, w, head}
	lay.footer = rect{0, h - 1, w, 1}
	lay.body = rect{0, head, w, h - head - 1}
	switch {
	case !lay.boxed:
		lay.stack(nodes, focus)
	case w >= chartsW && h >= chartsH:
		lay.wide(nodes)
	default:
		lay.medium(nodes)
	}
	return lay
}

// stack puts what there is room for one below the other.
func (lay *layout) stack(nodes int, focus paneID) {
	b := lay.body
	switch {
	case b.h < 9:
		lay.panes[focus] = b
	case b.h < 16:
		other := focus
		if focus == nodesID {
			other = requestsID
		}
		top := bound(nodes+2, 3, b.h/2)
		lay.panes[nodesID] = rect{0, b.y, b.w, top}
		lay.panes[other] = rect{0, b.y + top, b.w, b.h - top}
	default:
		top := bound(nodes+2, 4, max(b.h*35/100, 5))
		events := bound(b.h/6, 3, 10)
		left := b.h - top - events
		models := bound(left*2/5, 4, 14)
		lay.panes[nodesID] = rect{0, b.y, b.w, top}
		lay.panes[requestsID] = rect{0, b.y + top, b.w, left - models}
		lay.panes[replicasID] = rect{0, b.y + b.h - events - models, b.w, models}
		lay.panes[eventsID] = rect{0, b.y + b.h - events, b.w, events}
	}
}

// medium puts nodes over requests over models and events side by side.
func (lay *layout) medium(nodes int) {
	b := lay.body
	top := bound(nodes+3, 5, b.h*2/5)
	bottom := bound((b.h-top)*2/5, 5, 16)
	left := b.w * 52 / 100
	y := b.y + b.h - bottom
	lay.panes[nodesID] = rect{0, b.y, b.w, top}
	lay.panes[requestsID] = rect{0, b.y + top, b.w, b.h - top - bottom}
	lay.panes[replicasID] = rect{0, y, left, bottom}
	lay.panes[eventsID] = rect{left, y, b.w - left, bottom}
}

// wide puts charts over nodes, then requests at the left, models over events at the right.
func (lay *layout) wide(nodes int) {
	b := lay.body
	charts := bound(b.h/6, 7, 12)
	lay.charts = rect{0, b.y, b.w, charts}
	top := bound(nodes+3, 5, (b.h-charts)/2)
	left := b.w * 3 / 5
	y := b.y + charts + top
	rest := b.h - charts - top
	events := bound(rest*2/5, 4, 20)
	lay.panes[nodesID] = rect{0, b.y + charts, b.w, top}
	lay.panes[requestsID] = rect{0, y, left, rest}
	lay.panes[replicasID] = rect{left, y, b.w - left, rest - events}
	lay.panes[eventsID] = rect{left, y + rest - events, b.w - left, events}
}

// bound brings n into low to high; low wins where they cross.
func bound(n, low, high int) int { return max(min(n, high), low) }
