package tui

import (
	"cmp"
	"strconv"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// requestsPane lists the requests in the controller.
type requestsPane struct{ table[requestRow] }

func newRequestsPane(k *look) *requestsPane {
	return &requestsPane{table[requestRow]{
		look: k, empty: "no requests now",
		key: func(r *requestRow) string { return string(r.ID) },
		match: func(r *requestRow, filter string) bool {
			return has(filter, string(r.ID), r.Model, r.nodeName, string(r.State))
		},
		orders: []order[requestRow]{
			{name: "oldest"},
			{"newest", func(a, b *requestRow) int { return b.Since.Compare(a.Since) }},
			{"tokens", func(a, b *requestRow) int { return cmp.Compare(b.Tokens, a.Tokens) }},
			{"tok/s", func(a, b *requestRow) int { return cmp.Compare(b.rate, a.rate) }},
			{"model", func(a, b *requestRow) int { return cmp.Compare(a.Model, b.Model) }},
			{"node", func(a, b *requestRow) int { return cmp.Compare(a.nodeName, b.nodeName) }},
		},
		columns: []column[requestRow]{
			{title: "REQUEST", width: 8, most: 12, rank: 6, draw: drawRequestID},
			{title: "MODEL", width: 15, names: modelNames, draw: drawRequestModel},
			{title: "NODE", width: 9, names: nodeNames, rank: 3, draw: drawRequestNode},
			{title: "STATE", width: 11, draw: drawRequestState},
			{title: "TRY", width: 3, right: true, rank: 8, draw: drawRequestTry},
			{title: "TOKENS", width: 7, right: true, draw: drawRequestTokens},
			{title: "TOK/S", width: 6, right: true, rank: 1, draw: drawRequestRate},
			{title: "TTFT", width: 6, right: true, rank: 5, draw: drawRequestFirst},
			{title: "AGE", width: 6, right: true, rank: 4, draw: drawRequestAge},
		},
	}}
}

// drawRequestID shows the beginning, which is enough to find it in logs, and which of several answers it is.
func drawRequestID(k *look, l *line, w int, r *requestRow) {
	l.cell(shortID(r.ID, w), w, k.dim)
}

func shortID(id cluster.RequestID, w int) string {
	if width(string(id)) <= w {
		return string(id)
	}
	request, choice := id.Split()
	end := ""
	if choice > 0 {
		end = string(id[len(request):])
	}
	begin, _ := clip(string(request), w-len(end), "")
	return begin + end
}

func drawRequestModel(k *look, l *line, w int, r *requestRow) {
	l.cell(base(r.Model), w, k.strong)
}

func drawRequestNode(k *look, l *line, w int, r *requestRow) {
	if r.Node == "" {
		l.cell(k.marks.none, w, k.dim)
		return
	}
	l.cell(r.nodeName, w, k.text)
}

func drawRequestState(k *look, l *line, w int, r *requestRow) {
	s := k.requestSign(r.State)
	l.cell(s.glyph+" "+string(r.State), w, s.paint)
}

func drawRequestTry(k *look, l *line, w int, r *requestRow) {
	p := k.dim
	if r.Attempt > 1 {
		p = k.warn
	}
	l.number(strconv.Itoa(r.Attempt), w, p)
}

func drawRequestTokens(k *look, l *line, w int, r *requestRow) {
	p := k.dim
	if r.Tokens > 0 {
		p = k.strong
	}
	tokens := grouped(int64(r.Tokens))
	if width(tokens) > w {
		tokens = count(int64(r.Tokens))
	}
	l.number(tokens, w, p)
}

func drawRequestRate(k *look, l *line, w int, r *requestRow) {
	if r.State != cluster.RequestStreaming {
		l.number(k.marks.none, w, k.dim)
		return
	}
	l.number(rate(r.rate), w, k.text)
}

func drawRequestFirst(k *look, l *line, w int, r *requestRow) {
	if r.FirstToken == nil {
		l.number(k.marks.none, w, k.dim)
		return
	}
	l.number(short(r.FirstToken.Sub(r.Since)), w, k.text)
}

func drawRequestAge(k *look, l *line, w int, r *requestRow) {
	l.number(age(r.at.Sub(r.Since)), w, k.text)
}
