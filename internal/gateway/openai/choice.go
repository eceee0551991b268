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
	calls     []call
	probs     []cluster.TokenLogprob
	finish    cluster.FinishReason
}

// call is a tool call of a whole answer. Its arguments come in many pieces.
type call struct {
	id, name  string
	arguments []byte
}

func (c *choice) collect(chunk *cluster.Chunk) {
	c.text = append(c.text, chunk.Text...)
	c.reasoning = append(c.reasoning, chunk.Reasoning...)
	c.probs = append(c.probs, chunk.Logprobs...)
	for _, d := range chunk.ToolCalls {
		if d.ID != "" || len(c.calls) == 0 {
			c.calls = append(c.calls, call{id: d.ID, name: d.Name})
		}
		last := &c.calls[len(c.calls)-1]
		last.arguments = append(last.arguments, d.Arguments...)
	}
	if chunk.Finish != "" {
		c.finish = chunk.Finish
	}
}

// appendMessage appends the message of a whole chat answer. Reasoning has the name that other servers gave it; OpenAI
// shows none.
func (c *choice) appendMessage(dst []byte) []byte {
	dst = append(dst, `{"role":"assistant","content":`...)
	if len(c.text) == 0 && len(c.calls) > 0 {
		dst = append(dst, "null"...)
	} else {
		dst = wire.AppendString(dst, string(c.text))
	}
	if len(c.reasoning) > 0 {
		dst = append(dst, `,"reasoning_content":`...)
		dst = wire.AppendString(dst, string(c.reasoning))
	}
	for i := range c.calls {
		if i == 0 {
			dst = append(dst, `,"tool_calls":[`...)
		} else {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"id":`...)
		dst = wire.AppendString(dst, c.calls[i].id)
		dst = append(dst, `,"type":"function","function":{"name":`...)
		dst = wire.AppendString(dst, c.calls[i].name)
		dst = append(dst, `,"arguments":`...)
		dst = wire.AppendString(dst, string(c.calls[i].arguments))
		dst = append(dst, "}}"...)
	}
	if len(c.calls) > 0 {
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
