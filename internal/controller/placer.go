package controller

import (
	"cmp"
	"container/heap"
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/sched"
)

// placer gives requests their nodes: at once where it can, else in the order in which they came. Requests that only
// other nodes could answer do not wait for each other: there is one line for each model and pin.
type placer struct {
	nodes func() *cluster.Snapshot
	most  int // requests that wait

	mu      sync.Mutex
	work    map[cluster.NodeID]sched.Work // guarded by mu, as is everything below
	lines   map[string][]*ticket          // by ticket.line; none is empty
	waiting int
	seq     uint64
	stale   bool // a node may have become free, and those who wait were not looked at since

	// stir says that a node may have become free. Buffered: one is enough for any number of reasons.
	stir chan struct{}
}

// ticket is one request's place in the line.
type ticket struct {
	req      *cluster.Request
	resolved map[cluster.NodeID]cluster.Model
	// unresolved are nodes that have something of that name, but cannot use it.
	unresolved []cluster.Refusal
	// barred are nodes that cannot answer this request; avoided are nodes that failed it and may be tried once more when
	// there is no other.
	barred, avoided []cluster.Refusal

	seq       uint64 // order of arrival; kept when the request has to wait again
	placement cluster.Placement
	err       error
	ready     chan struct{} // closed when placement or err is there
}

func newPlacer(nodes func() *cluster.Snapshot, most int) *placer {
	return &placer{
		nodes: nodes, most: most, work: make(map[cluster.NodeID]sched.Work), lines: make(map[string][]*ticket),
		stir: make(chan struct{}, 1),
	}
}

// line names the requests that t may have to wait for.
func (t *ticket) line() string {
	var b strings.Builder
	b.WriteString(t.req.Model)
	b.WriteByte(0)
	b.WriteString(string(t.req.Node))
	for _, list := range [][]cluster.Refusal{t.barred, t.avoided} {
		b.WriteByte(0)
		for _, x := range list {
			b.WriteString(string(x.Node))
			b.WriteByte(1)
		}
	}
	return b.String()
}

// claim gives t a node and counts the request there until release. It waits while every node that could take it is
// busy; waits is called before that, once.
func (p *placer) claim(ctx context.Context, t *ticket, waits func()) (cluster.Placement, error) {
	p.mu.Lock()
	if p.stale {
		p.pumpLocked() // whoever waits comes first, in whatever line
	}
	if t.seq == 0 {
		p.seq++
		t.seq = p.seq
	}
	line := t.line()
	if ahead := p.lines[line]; len(ahead) == 0 || ahead[0].seq > t.seq {
		placement, err := p.try(t)
		if cluster.CodeOf(err) != cluster.CodeBusy {
			defer p.mu.Unlock()
			return placement, err
		}
	}
	if p.waiting >= p.most {
		defer p.mu.Unlock()
		return cluster.Placement{}, cluster.Errorf(cluster.CodeBusy, "the queue is full: %d requests are waiting", p.waiting).
			WithHint("try again in a moment")
	}
	t.ready = make(chan struct{})
	p.enter(line, t)
	p.mu.Unlock()
	waits()
	select {
	case <-t.ready:
		return t.placement, t.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-t.ready: // placed in the meantime
		if t.err == nil {
			p.forget(t.placement)
		}
	default:
		p.leave(line, t)
	}
	return cluster.Placement{}, context.Cause(ctx)
}

// release ends what claim counted. A busy node proved that it runs no more at once than what it has otherwise; that
// holds until its next heartbeat.
func (p *placer) release(of cluster.Placement, busy bool) (left int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(of)
	w := p.work[of.Node]
	if busy {
		most := w.Models[of.Model.Name]
		if known, ok := w.Full[of.Model.Name]; ok {
			most = min(most, known)
		}
		if w.Full == nil {
			w.Full = make(map[string]int)
		}
		w.Full[of.Model.Name] = most
		p.work[of.Node] = w
	}
	return w.Total
}

// heard is called when a node said how it is.
func (p *placer) heard(id cluster.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w, ok := p.work[id]; ok {
		w.Full = nil
		p.keep(id, w)
	}
	p.nudge()
}

// pump places those who wait, in order, as far as it goes.
func (p *placer) pump() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pumpLocked()
}

func (p *placer) pumpLocked() {
	p.stale = false
	heads := make(headsBySeq, 0, len(p.lines))
	for line, tickets := range p.lines {
		heads = append(heads, head{line, tickets[0]})
	}
	heap.Init(&heads)
	for len(heads) > 0 {
		h := &heads[0]
		placement, err := p.try(h.first)
		if cluster.CodeOf(err) == cluster.CodeBusy {
			heap.Pop(&heads) // nor can those behind it
			continue
		}
		h.first.placement, h.first.err = placement, err
		close(h.first.ready)
		p.leave(h.line, h.first)
		if rest := p.lines[h.line]; len(rest) > 0 {
			h.first = rest[0]
			heap.Fix(&heads, 0)
		} else {
			heap.Pop(&heads)
		}
	}
}

// try places t and counts it. Nodes that failed it are taken only when no other could answer, now or later.
func (p *placer) try(t *ticket) (cluster.Placement, error) {
	s := p.nodes()
	never := slices.Concat(t.unresolved, t.barred)
	live := sched.Live{Work: p.work, Resolved: t.resolved, Excluded: slices.Concat(never, t.avoided)}
	placement, err := sched.Place(s, t.req, live)
	if err != nil && len(t.avoided) > 0 && cluster.CodeOf(err) != cluster.CodeBusy {
		live.Excluded = never
		placement, err = sched.Place(s, t.req, live)
	}
	if err != nil {
		return placement, err
	}
	w := p.work[placement.Node]
	if w.Models == nil {
		w.Models = make(map[string]int)
	}
	w.Total++
	w.Models[placement.Model.Name]++
	p.work[placement.Node] = w
	return placement, nil
}

// forget undoes the counting of try; a place has become free.
func (p *placer) forget(of cluster.Placement) {
	w := p.work[of.Node]
	w.Total--
	if w.Models[of.Model.Name]--; w.Models[of.Model.Name] == 0 {
		delete(w.Models, of.Model.Name)
	}
	p.keep(of.Node, w)
	p.nudge()
}

// keep notes the work of a node, if there is something to note.
func (p *placer) keep(id cluster.NodeID, w sched.Work) {
	if w.Total == 0 && len(w.Full) == 0 {
		delete(p.work, id)
		return
	}
	p.work[id] = w
}

// retry has those who wait looked at again: nodes changed.
func (p *placer) retry() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nudge()
}

func (p *placer) nudge() {
	if p.waiting == 0 {
		return
	}
	p.stale = true
	poke(p.stir)
}

// enter puts t into its line, by its order of arrival.
func (p *placer) enter(line string, t *ticket) {
	tickets := p.lines[line]
	i, _ := slices.BinarySearchFunc(tickets, t.seq, func(o *ticket, seq uint64) int { return cmp.Compare(o.seq, seq) })
	p.lines[line] = slices.Insert(tickets, i, t)
	p.waiting++
}

func (p *placer) leave(line string, t *ticket) {
	tickets := p.lines[line]
	i, found := slices.BinarySearchFunc(tickets, t.seq, func(o *ticket, seq uint64) int { return cmp.Compare(o.seq, seq) })
	if !found {
		return
	}
	p.waiting--
	if i == 0 {
		tickets[0] = nil
		tickets = tickets[1:] // the usual case must not move thousands
	} else {
		tickets = slices.Delete(tickets, i, i+1)
	}
	if len(tickets) == 0 {
		delete(p.lines, line)
		return
	}
	p.lines[line] = tickets
}

// head is the first of a line.
type head struct {
	line  string
	first *ticket
}

type headsBySeq []head

func (h headsBySeq) Len() int           { return len(h) }
func (h headsBySeq) Less(i, j int) bool { return h[i].first.seq < h[j].first.seq }
func (h headsBySeq) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *headsBySeq) Push(x any)        { *h = append(*h, x.(head)) } //nolint:forcetypeassert // heap.Interface

// Pop removes the last element, as heap.Interface wants it.
func (h *headsBySeq) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
