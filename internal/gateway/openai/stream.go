package openai

import (
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway/wire"
)

// ContentType is that of a stream.
func (x *Exchange) ContentType() string { return "text/event-stream; charset=utf-8" }

// AppendChunk appends the events of a chunk of one choice, which may be none. Those of the last chunk of the last choice
// end the stream.
func (x *Exchange) AppendChunk(dst []byte, index int, c *cluster.Chunk) []byte {
	ch := &x.choices[index]
	if !ch.begun {
		ch.begun = true
		dst = x.appendFirst(dst, index)
	}
	if x.isChat && c.Reasoning != "" {
		dst = x.appendDelta(dst, index)
		dst = append(dst, `{"reasoning_content":`...)
		dst = wire.AppendString(dst, c.Reasoning)
		dst = append(dst, '}')
		dst = x.appendEnd(dst, index, nil, "")
	}
	if c.Text != "" || len(c.Logprobs) > 0 && x.req.Logprobs {
		dst = x.appendText(dst, index, c.Text)
		dst = x.appendEnd(dst, index, c.Logprobs, "")
	}
	if x.isChat && len(c.ToolCalls) > 0 {
		dst = x.appendDelta(dst, index)
		dst = appendCallDeltas(dst, c.ToolCalls)
		dst = x.appendEnd(dst, index, nil, "")
	}
	if c.Finish != "" {
		dst = x.appendLast(dst, index, c)
	}
	return dst
}

// appendFirst appends what a choice begins with: its role, or the prompt that is to be repeated.
func (x *Exchange) appendFirst(dst []byte, index int) []byte {
	switch {
	case x.isChat:
		dst = x.appendDelta(dst, index)
		dst = append(dst, `{"role":"assistant","content":"","refusal":null}`...)
	case x.echo:
		dst = x.appendText(dst, index, *x.req.Prompt)
	default:
		return dst
	}
	return x.appendEnd(dst, index, nil, "")
}

// appendDelta appends an event up to the delta of a choice.
func (x *Exchange) appendDelta(dst []byte, index int) []byte {
	dst = append(dst, x.prefix...)
	dst = append(dst, `{"index":`...)
	dst = wire.AppendInt(dst, index)
	return append(dst, `,"delta":`...)
}

func (x *Exchange) appendText(dst []byte, index int, text string) []byte {
	if x.isChat {
		dst = x.appendDelta(dst, index)
		dst = append(dst, `{"content":`...)
		dst = wire.AppendString(dst, text)
		return append(dst, '}')
	}
	dst = append(dst, x.prefix...)
	dst = append(dst, `{"index":`...)
	dst = wire.AppendInt(dst, index)
	dst = append(dst, `,"text":`...)
	return wire.AppendString(dst, text)
}

func (x *Exchange) appendLast(dst []byte, index int, c *cluster.Chunk) []byte {
	if x.isChat {
		dst = append(x.appendDelta(dst, index), "{}"...)
	} else {
		dst = x.appendText(dst, index, "")
	}
	dst = x.appendEnd(dst, index, nil, c.Finish)
	if !x.account(c.Usage) {
		return dst
	}
	if x.withUsage {
		dst = append(dst, x.prefix...)
		dst = append(dst, `],"usage":`...)
		dst = appendUsage(dst, &x.usage)
		dst = append(dst, "}\n\n"...)
	}
	return append(dst, "data: [DONE]\n\n"...)
}

// appendEnd appends what follows the text in an event.
func (x *Exchange) appendEnd(dst []byte, index int, probs []cluster.TokenLogprob, finish cluster.FinishReason) []byte {
	dst = x.appendRest(dst, index, probs, finish)
	dst = append(dst, ']')
	return append(dst, x.suffix...)
}

// AppendAlive appends what keeps a silent stream alive and means nothing.
func (x *Exchange) AppendAlive(dst []byte) []byte { return append(dst, ": keep-alive\n\n"...) }

// AppendFailure appends the event of an error, after which the stream ends without its usual end.
func (x *Exchange) AppendFailure(dst []byte, e *cluster.Error) []byte {
	dst = append(dst, "data: "...)
	dst = Dialect{}.AppendError(dst, e)
	return append(dst, '\n') // AppendError ended the line
}
