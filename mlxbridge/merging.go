package mlxbridge

import "github.com/mlxctl/mlxctl/internal/cluster"

// merging is a chunk that grows row by row. The order of its channels is that of cluster.Chunk.
type merging struct {
	text      []byte
	reasoning []byte
	calls     cluster.ToolCalls
	tokens    []int
	logprobs  []cluster.TokenLogprob
}

// follows says whether a row may be merged without what it says coming before what is there.
func (m *merging) follows(r *stepRow) bool {
	switch {
	case m.calls.Len() > 0:
		return r.Text == "" && r.Extra.Reasoning == ""
	case len(m.text) > 0:
		return r.Extra.Reasoning == ""
	default:
		return true
	}
}

func (m *merging) merge(r *stepRow) {
	m.text = append(m.text, r.Text...)
	m.reasoning = append(m.reasoning, r.Extra.Reasoning...)
	m.calls.Add(r.Extra.Calls...)
	m.tokens = append(m.tokens, r.Tokens...)
	for i := range r.Logprobs {
		m.logprobs = append(m.logprobs, r.Logprobs[i].value())
	}
}

func (m *merging) holds() bool {
	return len(m.text) > 0 || len(m.reasoning) > 0 || m.calls.Len() > 0 || len(m.tokens) > 0
}

// chunk returns what was merged and begins anew.
func (m *merging) chunk() cluster.Chunk {
	c := cluster.Chunk{
		Text: string(m.text), Reasoning: string(m.reasoning), ToolCalls: m.calls.Joined(), Tokens: m.tokens, Logprobs: m.logprobs,
	}
	*m = merging{text: m.text[:0], reasoning: m.reasoning[:0]}
	return c
}
