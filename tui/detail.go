package tui

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/tui/chart"
)

// detailPane shows everything about one node.
type detailPane struct {
	*look
	id   cluster.NodeID // empty: closed
	row  *nodeRow       // nil when the node is gone
	snap *cluster.Snapshot
	lengths
	offset int
	page   int
	lines  int // in all
}

func (p *detailPane) open(id cluster.NodeID) { p.id, p.offset = id, 0 }
func (p *detailPane) close()                 { p.id, p.row = "", nil }
func (p *detailPane) isOpen() bool           { return p.id != "" }
func (p *detailPane) move(by int)            { p.offset = bound(p.offset+by, 0, max(p.lines-p.page, 0)) }

func (p *detailPane) set(s *scene) {
	p.row, p.snap, p.lengths = nil, s.snap, s.lengths
	for i := range s.nodes {
		if s.nodes[i].ID == p.id {
			p.row = &s.nodes[i]
		}
	}
}

func (p *detailPane) caption() caption {
	c := caption{name: string(p.id), focused: true}
	if p.row != nil {
		c.name, c.number = p.row.Name, string(p.row.State)
	}
	if p.lines > p.page && p.page > 0 {
		c.notes = fmt.Sprintf("%d-%d of %d lines", p.offset+1, min(p.offset+p.page, p.lines), p.lines)
	}
	return c
}

// Render returns h lines of w columns.
func (p *detailPane) Render(w, h int) []string {
	if p.row == nil {
		return p.centred(w, h, seg{"this node is gone", p.dim, 0}, seg{"esc back", p.dim, 0})
	}
	text := p.about(w)
	text = append(text, p.section(w, "models in memory", len(p.row.Replicas))...)
	text = append(text, p.replicas(w)...)
	text = append(text, p.section(w, "models on disk", len(p.row.Models))...)
	text = append(text, p.models(w)...)
	p.page, p.lines = max(h, 0), len(text)
	p.move(0)
	out := text[p.offset:min(p.offset+p.page, len(text))]
	return append(out, blank(w, h-len(out))...)
}

// about describes the machine and how it does.
func (p *detailPane) about(w int) []string {
	n, hw := p.row, &p.row.Hardware
	s := p.nodeSign(n.State)
	state := n.StateName()
	if n.Reason != "" {
		state += ": " + n.Reason
	}
	out := []string{
		p.fact(w, "state", s.glyph+" "+state, s.paint),
		p.fact(w, "machine", p.join(hw.Chip, hw.Model, memory(hw.MemoryBytes)), p.text),
		p.fact(w, "cores", p.join(counted(hw.CPUs, "CPU"), counted(hw.GPUCores, "GPU")), p.text),
		p.fact(w, "system", p.join(strings.TrimSpace(hw.OS+" "+hw.OSVersion), hw.Arch), p.text),
		p.fact(w, "agent", p.join(n.Version, p.since(n)), p.text),
		p.fact(w, "id", string(n.ID), p.dim),
		p.fact(w, "last seen", p.lastSeen(n), p.text),
		"",
		p.budget(w),
		p.fact(w, "load", p.load(), p.text),
		p.throughput(w),
	}
	out[7] = strings.Repeat(" ", w)
	return out
}

// lastSeen says when the controller heard of a node, if it ever did.
func (p *detailPane) lastSeen(n *nodeRow) string {
	if n.LastSeen.IsZero() {
		return "never"
	}
	return age(p.snap.At.Sub(n.LastSeen)) + " ago"
}

func (p *detailPane) since(n *nodeRow) string {
	if n.StartedAt == nil {
		return ""
	}
	return "up " + age(p.snap.At.Sub(*n.StartedAt))
}

// join puts what is known on one line; what was not readable there stays away.
func (p *detailPane) join(facts ...string) string {
	known := facts[:0:0]
	for _, f := range facts {
		if f != "" {
			known = append(known, f)
		}
	}
	if len(known) == 0 {
		return p.marks.none
	}
	return strings.Join(known, " "+p.marks.dot+" ")
}

func memory(n int64) string {
	if n <= 0 {
		return ""
	}
	return size(n) + " memory"
}

func counted(n int, what string) string {
	if n <= 0 {
		return ""
	}
	return strconv.Itoa(n) + " " + what
}

const factWidth = 11

func (p *detailPane) fact(w int, name, value string, how paint) string {
	l := p.line(w)
	l.skip(2)
	l.cell(name, factWidth, p.dim)
	l.cell(value, l.left, how)
	return l.String()
}

func (p *detailPane) budget(w int) string {
	n := p.row
	l := p.line(w)
	l.skip(2)
	l.cell("budget", factWidth, p.dim)
	if n.BudgetBytes <= 0 {
		l.put(p.marks.none, p.dim)
		return l.String()
	}
	f := fraction(n.PlannedBytes, n.BudgetBytes)
	filled, rest := chart.Bar(f, bound(w-factWidth-30, 0, 32), p.symbols)
	l.put(filled, memoryPaint(p.look, f))
	l.put(rest, p.dim)
	l.skip(2)
	l.put(portion(n.PlannedBytes, n.BudgetBytes)+" claimed", p.text)
	return l.String()
}

func (p *detailPane) load() string {
	load := &p.row.Load
	if p.row.State == cluster.NodeDown {
		return p.marks.none // of when it was up
	}
	var facts []string
	add := func(format string, args ...any) { facts = append(facts, fmt.Sprintf(format, args...)) }
	if load.CPUPercent != nil {
		add("CPU %4s", percent(load.CPUPercent, ""))
	}
	if load.GPUPercent != nil {
		add("GPU %4s", percent(load.GPUPercent, ""))
	}
	if load.MemoryFreeBytes != nil {
		add("%s free", size(*load.MemoryFreeBytes))
	}
	if load.GPUMemoryBytes != nil {
		add("%s in GPU use", size(*load.GPUMemoryBytes))
	}
	if load.MemoryPressure != nil {
		add("pressure %s", pressure(*load.MemoryPressure))
	}
	if load.PowerWatts != nil {
		add("%.0f W", *load.PowerWatts)
	}
	if load.Thermal != nil {
		add("thermal %s", *load.Thermal)
	}
	return p.join(facts...)
}

// pressure names macOS's levels.
func pressure(level int) string {
	switch level {
	case 1:
		return "normal"
	case 2:
		return "warning"
	case 4:
		return "critical"
	}
	return strconv.Itoa(level)
}

func (p *detailPane) throughput(w int) string {
	l := p.line(w)
	l.skip(2)
	l.cell("tok/s", factWidth, p.dim)
	n := bound(w-factWidth-12, 0, sparkMost)
	l.put(chart.Sparkline(p.row.recent(p.symbols.Samples(n)), n, p.row.top, p.symbols), p.chart)
	l.skip(1)
	l.number(rate(p.row.rate), 7, p.strong)
	return l.String()
}

func (p *detailPane) section(w int, name string, n int) []string {
	l := p.line(w)
	l.skip(2)
	l.put(name, p.title)
	l.skip(1)
	l.put(strconv.Itoa(n), p.dim)
	return []string{strings.Repeat(" ", w), l.String()}
}
