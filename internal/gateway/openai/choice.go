package openai

import (
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway/wire"
)

// choice is one of the answers to a request.
type choice struct {
	begun  bool // its first event is there
	offset int  // characters in the logprobs so far; completions say where each token begins

	// Of a whole answer.
	text      []byte
	reasoning []byte
	calls     cluster.ToolCalls
	probs     []cluster.TokenLogprob
	finish    cluster.FinishReason
}

func (c *choice) collect(chunk *cluster.Chunk) {
	c.text = append(c.text, chunk.Text...)
	c.reasoning = append(c.reasoning, chunk.Reasoning...)
	c.probs = append(c.probs, chunk.Logprobs...)
	c.calls.Add(chunk.ToolCalls...)
	if chunk.Finish != "" {
		c.finish = chunk.Finish
	}
}

// appendMessage appends the message of a whole chat answer. Reasoning has the name that other servers gave it; OpenAI
// shows none.
func (c *choice) appendMessage(dst []byte) []byte {
	dst = append(dst, `{"role":"assistant","content":`...)
	if len(c.text) == 0 && c.calls.Len() > 0 {
		dst = append(dst, "null"...)
	} else {
		dst = wire.AppendString(dst, string(c.text))
	}
	if len(c.reasoning) > 0 {
		dst = append(dst, `,"reasoning_content":`...)
		dst = wire.AppendString(dst, string(c.reasoning))
	}
	for i, call := range c.calls.Joined() {
		if i == 0 {
			dst = append(dst, `,"tool_calls":[`...)
		} else {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"id":`...)
		dst = wire.AppendString(dst, call.ID)
		dst = append(dst, `,"type":"function","function":{"name":`...)
		dst = wire.AppendString(dst, call.Name)
		dst = append(dst, `,"arguments":`...)
		dst = wire.AppendString(dst, call.Arguments)
		dst = append(dst, "}}"...)
	}
	if c.calls.Len() > 0 {
		dst = append(dst, ']')
	}
	return append(dst, `,"refusal":null}`...)
}

// appendCallDeltas appends the delta of a chunk's tool calls.
func appendCallDeltas(dst []byte, calls []cluster.ToolCallDelta) []byte {
	dst = append(dst, `{"tool_calls":[`...)
	for i, d := range calls {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"index":`...)
		dst = wire.AppendInt(dst, d.Index)
		if d.ID != "" {
			dst = append(dst, `,"id":`...)
			dst = wire.AppendString(dst, d.ID)
			dst = append(dst, `,"type":"function","function":{"name":`...)
			dst = wire.AppendString(dst, d.Name)
			dst = append(dst, `,"arguments":`...)
		} else {
			dst = append(dst, `,"function":{"arguments":`...)
		}
		dst = wire.AppendString(dst, d.Arguments)
		dst = append(dst, "}}"...)
	}
	return append(dst, "]}"...)
}
