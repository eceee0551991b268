package tui

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// replicas lists what is in the node's memory with the workers' own counters, each with what is to be said of it below.
func (p *detailPane) replicas(w int) []string {
	rows := make([]replicaRow, len(p.row.Replicas))
	for i := range p.row.Replicas {
		rows[i] = replicaRow{Replica: &p.row.Replicas[i], node: p.row.ID, nodeName: p.row.Name}
	}
	slices.SortStableFunc(rows, func(a, b replicaRow) int { return cmp.Compare(a.Model, b.Model) })
	t := table[replicaRow]{
		look: p.look, rows: rows, lengths: p.lengths, empty: "none",
		orders: []order[replicaRow]{{}}, columns: detailReplicas(),
	}
	out := t.Render(w, max(len(rows), 1)+1)
	for i, row := range slices.Backward(rows) {
		out = slices.Insert(out, i+2, p.below(w, &row)...)
	}
	return out
}

// below are the lines that stand below a replica: what it runs with, and why it failed.
func (p *detailPane) below(w int, r *replicaRow) []string {
	var out []string
	for _, part := range []struct {
		text string
		how  paint
	}{{r.With(), p.dim}, {r.Reason, p.bad}} {
		if part.text != "" {
			l := p.line(w)
			l.skip(4)
			l.cell(part.text, l.left, part.how)
			out = append(out, l.String())
		}
	}
	return out
}

func detailReplicas() []column[replicaRow] {
	counter := func(title string, rank int, value func(*cluster.Counters) int64) column[replicaRow] {
		return column[replicaRow]{
			title: title, width: max(6, len(title)), right: true, rank: rank,
			draw: func(k *look, l *line, w int, r *replicaRow) {
				p := k.text
				if value(&r.Counters) == 0 {
					p = k.dim
				}
				l.number(count(value(&r.Counters)), w, p)
			},
		}
	}
	return []column[replicaRow]{
		{title: "MODEL", width: 20, names: modelNames, draw: drawReplicaModel},
		{title: "STATE", width: 13, draw: drawReplicaState},
		{title: "RESIDENT", width: 8, right: true, rank: 3, draw: drawReplicaMemory},
		{title: "PLANNED", width: 8, right: true, rank: 9, draw: drawReplicaPlanned},
		{title: "CONTEXT", width: 7, right: true, rank: 9, draw: drawReplicaContext},
		{title: "RUN", width: 7, right: true, rank: 1, draw: drawReplicaRunning},
		{title: "WAIT", width: 4, right: true, rank: 6, draw: drawReplicaWaiting},
		{title: "TOK/S", width: 7, right: true, draw: drawReplicaRate},
		counter("TOKENS", 2, func(c *cluster.Counters) int64 { return c.GeneratedTokens }),
		counter("PROMPT", 7, func(c *cluster.Counters) int64 { return c.PromptTokens }),
		counter("CACHED", 7, func(c *cluster.Counters) int64 { return c.CachedTokens }),
		counter("STEPS", 8, func(c *cluster.Counters) int64 { return c.Steps }),
		counter("DONE", 4, func(c *cluster.Counters) int64 { return c.Finished }),
		counter("CANCELLED", 8, func(c *cluster.Counters) int64 { return c.Cancelled }),
		counter("FAILED", 5, func(c *cluster.Counters) int64 { return c.Failed }),
		{title: "RESTARTS", width: 8, right: true, rank: 8, draw: drawReplicaRestarts},
		{title: "PID", width: 7, right: true, rank: 10, draw: drawReplicaPID},
		{title: "PINNED", width: 6, rank: 10, draw: drawReplicaPinned},
	}
}

func drawReplicaPlanned(k *look, l *line, w int, r *replicaRow) {
	l.number(size(r.PlannedBytes), w, k.text)
}

func drawReplicaRestarts(k *look, l *line, w int, r *replicaRow) {
	p := k.dim
	if r.Restarts > 0 {
		p = k.warn
	}
	l.number(count(int64(r.Restarts)), w, p)
}

func drawReplicaPID(k *look, l *line, w int, r *replicaRow) {
	if r.WorkerPID == 0 {
		l.number(k.marks.none, w, k.dim)
		return
	}
	l.number(strconv.Itoa(r.WorkerPID), w, k.dim)
}

func drawReplicaPinned(k *look, l *line, w int, r *replicaRow) {
	if r.Pinned {
		l.cell("pinned", w, k.text)
		return
	}
	l.cell(k.marks.none, w, k.dim)
}

// models lists what is on the node's disk.
func (p *detailPane) models(w int) []string {
	rows := slices.Clone(p.row.Models)
	slices.SortStableFunc(rows, func(a, b cluster.Model) int { return cmp.Compare(a.Name, b.Name) })
	t := table[cluster.Model]{
		look: p.look, rows: rows, lengths: p.lengths, empty: "none", orders: []order[cluster.Model]{{}},
		columns: []column[cluster.Model]{
			{title: "MODEL", width: 24, names: wholeNames, draw: func(k *look, l *line, w int, m *cluster.Model) { l.cell(m.Name, w, k.strong) }},
			{title: "KIND", width: 12, rank: 4, draw: textCell(func(m *cluster.Model) string { return m.Architecture })},
			{title: "QUANT", width: 8, rank: 3, draw: textCell(func(m *cluster.Model) string { return m.Quantization })},
			{title: "WEIGHTS", width: 8, right: true, draw: numberCell(func(m *cluster.Model) string { return size(m.WeightBytes) })},
			{title: "CONTEXT", width: 7, right: true, rank: 2, draw: numberCell(func(m *cluster.Model) string { return count(int64(m.Context)) })},
			{title: "KV/TOKEN", width: 8, right: true, rank: 6, draw: numberCell(func(m *cluster.Model) string { return size(m.KVBytesPerToken) })},
			{title: "DIGEST", width: 12, rank: 5, draw: textCell(func(m *cluster.Model) string { return digest(m.Digest) })},
		},
	}
	return t.Render(w, max(len(rows), 1)+1)
}

func textCell(value func(*cluster.Model) string) func(*look, *line, int, *cluster.Model) {
	return func(k *look, l *line, w int, m *cluster.Model) {
		if s := value(m); s != "" {
			l.cell(s, w, k.text)
			return
		}
		l.cell(k.marks.none, w, k.dim)
	}
}

func numberCell(value func(*cluster.Model) string) func(*look, *line, int, *cluster.Model) {
	return func(k *look, l *line, w int, m *cluster.Model) { l.number(value(m), w, k.text) }
}

// digest is the part that people compare.
func digest(s string) string {
	if len(s) > 7 && s[:7] == "sha256:" {
		s = s[7:]
	}
	short, _ := clip(s, 12, "")
	return short
}
