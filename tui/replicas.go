package tui

import (
	"cmp"
	"strconv"
)

// replicasPane lists the loaded models: of all nodes, or of the one under the cursor of the nodes.
type replicasPane struct{ table[replicaRow] }

func newReplicasPane(k *look) *replicasPane {
	return &replicasPane{table[replicaRow]{
		look: k, empty: "nothing loaded: the first request loads its model",
		key: func(r *replicaRow) string { return string(r.node) + "\n" + r.Model + "\n" + r.Digest },
		match: func(r *replicaRow, filter string) bool {
			return has(filter, r.Model, r.nodeName, string(r.node), string(r.State))
		},
		orders: []order[replicaRow]{
			{name: "model"},
			{"node", func(a, b *replicaRow) int { return cmp.Compare(a.nodeName, b.nodeName) }},
			{"tok/s", func(a, b *replicaRow) int { return cmp.Compare(b.TokensPerSecond, a.TokensPerSecond) }},
			{"running", func(a, b *replicaRow) int { return cmp.Compare(b.Running, a.Running) }},
			{"memory", func(a, b *replicaRow) int { return cmp.Compare(memoryOf(b), memoryOf(a)) }},
		},
		columns: []column[replicaRow]{
			{title: "MODEL", width: 16, names: modelNames, draw: drawReplicaModel},
			{title: "NODE", width: 9, names: nodeNames, rank: 3, draw: drawReplicaNode},
			{title: "STATE", width: 13, rank: 1, draw: drawReplicaState},
			{title: "MEMORY", width: 8, right: true, rank: 4, draw: drawReplicaMemory},
			{title: "CONTEXT", width: 7, right: true, rank: 8, draw: drawReplicaContext},
			{title: "RUN", width: 6, right: true, rank: 2, draw: drawReplicaRunning},
			{title: "WAIT", width: 4, right: true, rank: 6, draw: drawReplicaWaiting},
			{title: "TOKENS", width: 6, right: true, rank: 5, draw: drawReplicaTokens},
			{title: "TOK/S", width: 6, right: true, draw: drawReplicaRate},
		},
	}}
}

// drawReplicaModel leaves the organisation away, in every row alike; the node's detail has it.
func drawReplicaModel(k *look, l *line, w int, r *replicaRow) { l.cell(base(r.Model), w, k.strong) }

func drawReplicaNode(k *look, l *line, w int, r *replicaRow) { l.cell(r.nodeName, w, k.text) }

func drawReplicaState(k *look, l *line, w int, r *replicaRow) {
	s := k.replicaSign(r.State)
	l.cell(s.glyph+" "+string(r.State), w, s.paint)
}

// drawReplicaMemory shows what was measured, and before that, dimmed, what is claimed.
func drawReplicaMemory(k *look, l *line, w int, r *replicaRow) {
	n, measured := r.Memory()
	switch {
	case measured:
		l.number(size(n), w, k.text)
	case n == 0:
		l.number(k.marks.none, w, k.dim)
	default:
		l.number(size(n), w, k.dim)
	}
}

func memoryOf(r *replicaRow) int64 {
	n, _ := r.Memory()
	return n
}

func drawReplicaContext(k *look, l *line, w int, r *replicaRow) {
	l.number(count(int64(r.Context)), w, k.dim)
}

func drawReplicaRunning(k *look, l *line, w int, r *replicaRow) {
	p := k.text
	if r.Running == 0 {
		p = k.dim
	}
	l.number(strconv.Itoa(r.Running)+"/"+strconv.Itoa(r.Slots), w, p)
}

func drawReplicaWaiting(k *look, l *line, w int, r *replicaRow) {
	if r.Waiting == 0 {
		l.number("0", w, k.dim)
		return
	}
	l.number(count(int64(r.Waiting)), w, k.warn)
}

func drawReplicaTokens(k *look, l *line, w int, r *replicaRow) {
	l.number(count(r.Counters.GeneratedTokens), w, k.text)
}

func drawReplicaRate(k *look, l *line, w int, r *replicaRow) {
	l.number(rate(r.TokensPerSecond), w, k.ratePaint(r.TokensPerSecond))
}
