package tui

import (
	"cmp"
	"strconv"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/tui/chart"
)

// nodesPane lists the nodes.
type nodesPane struct{ table[nodeRow] }

func newNodesPane(k *look) *nodesPane {
	return &nodesPane{table[nodeRow]{
		look: k, empty: "no nodes yet: they show up when their agents say hello",
		key: func(n *nodeRow) string { return string(n.ID) },
		match: func(n *nodeRow, filter string) bool {
			return has(filter, n.Name, string(n.ID), n.StateName(), n.Hardware.Chip, n.models)
		},
		orders: []order[nodeRow]{
			{name: "name"},
			{"tok/s", func(a, b *nodeRow) int { return cmp.Compare(b.rate, a.rate) }},
			{"running", func(a, b *nodeRow) int { return cmp.Compare(b.running, a.running) }},
			{"memory", func(a, b *nodeRow) int {
				return cmp.Compare(fraction(b.PlannedBytes, b.BudgetBytes), fraction(a.PlannedBytes, a.BudgetBytes))
			}},
			{"state", func(a, b *nodeRow) int { return cmp.Compare(a.State, b.State) }},
		},
		columns: []column[nodeRow]{
			{title: "NAME", width: 10, names: nodeNames, draw: drawNodeName},
			{title: "STATE", width: 10, draw: drawNodeState},
			{title: "CHIP", width: 14, names: chipNames, rank: 8, draw: drawChip},
			{title: "MEMORY", width: 6, most: 20, rank: 6, draw: drawMemoryBar},
			{title: "USED/BUDGET", width: 15, right: true, rank: 3, draw: drawMemory},
			{title: "CPU", width: 4, right: true, rank: 5, draw: drawCPU},
			{title: "GPU", width: 4, needs: gpuReadings, right: true, rank: 5, draw: drawGPU},
			{title: "WATTS", width: 5, needs: wattReadings, right: true, rank: 9, draw: drawWatts},
			{title: "MODELS", width: 6, names: loadedNames, rank: 4, draw: drawModels},
			{title: "RUN", width: 6, right: true, rank: 1, draw: drawRunning},
			{title: "TOK/S", width: 6, right: true, draw: drawNodeRate},
			{title: "TREND", width: 8, most: 48, rank: 7, draw: drawNodeSpark},
		},
	}}
}

func drawNodeName(k *look, l *line, w int, n *nodeRow) { l.cell(n.Name, w, k.strong) }

func drawNodeState(k *look, l *line, w int, n *nodeRow) {
	s := k.nodeSign(n.State)
	l.cell(s.glyph+" "+n.StateName(), w, s.paint)
}

func drawChip(k *look, l *line, w int, n *nodeRow) {
	chip := n.Hardware.Chip
	if chip == "" {
		chip = k.marks.none
	}
	l.cell(chip, w, k.text)
}

func drawMemoryBar(k *look, l *line, w int, n *nodeRow) {
	f := fraction(n.PlannedBytes, n.BudgetBytes)
	filled, rest := chart.Bar(f, w, k.symbols)
	l.put(filled, memoryPaint(k, f))
	l.put(rest, k.dim)
}

func drawMemory(k *look, l *line, w int, n *nodeRow) {
	if n.BudgetBytes <= 0 {
		l.number(k.marks.none, w, k.dim)
		return
	}
	l.number(portion(n.PlannedBytes, n.BudgetBytes), w, k.text)
}

func drawCPU(k *look, l *line, w int, n *nodeRow) { k.load(l, w, n, n.Load.CPUPercent) }
func drawGPU(k *look, l *line, w int, n *nodeRow) { k.load(l, w, n, n.Load.GPUPercent) }

// load draws a percentage; of a node that is down there is none.
func (k *look) load(l *line, w int, n *nodeRow, f *float64) {
	if f == nil || n.State == cluster.NodeDown {
		l.number(k.marks.none, w, k.dim)
		return
	}
	l.number(percent(f, k.marks.none), w, k.text)
}

func drawWatts(k *look, l *line, w int, n *nodeRow) {
	if n.Load.PowerWatts == nil || n.State == cluster.NodeDown {
		l.number(k.marks.none, w, k.dim)
		return
	}
	l.number(strconv.Itoa(int(min(max(*n.Load.PowerWatts, 0), 9999)+0.5)), w, k.text)
}

// drawModels names what is loaded, or counts it where there is no room for the names.
func drawModels(k *look, l *line, w int, n *nodeRow) {
	switch {
	case n.loaded == 0:
		l.cell(k.marks.none, w, k.dim)
	case width(n.models) <= w:
		l.cell(n.models, w, k.text)
	default:
		l.cell(strconv.Itoa(n.loaded), w, k.text)
	}
}

func drawRunning(k *look, l *line, w int, n *nodeRow) {
	p := k.text
	if n.running == 0 {
		p = k.dim
	}
	l.number(strconv.Itoa(n.running)+"/"+strconv.Itoa(n.slots), w, p)
}

func drawNodeRate(k *look, l *line, w int, n *nodeRow) {
	l.number(rate(n.rate), w, k.ratePaint(n.rate))
}

func (k *look) ratePaint(f float64) paint {
	if f < 0.05 {
		return k.dim
	}
	return k.strong
}

func drawNodeSpark(k *look, l *line, w int, n *nodeRow) {
	l.put(chart.Sparkline(n.recent(k.symbols.Samples(w)), w, n.top, k.symbols), k.chart)
}
