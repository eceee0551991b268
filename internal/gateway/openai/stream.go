package openai

import (
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway/wire"
)

// ContentType is that of a stream.
func (x *Exchange) ContentType() string { return "text/event-stream; charset=utf-8" }

// AppendChunk appends the events of a chunk, which may be none. Those of the last chunk end the stream.
func (x *Exchange) AppendChunk(dst []byte, c *cluster.Chunk) []byte {
	if !x.begun {
		x.begun = true
		if x.isChat {
			dst = append(dst, x.prefix...)
			dst = append(dst, `{"index":0,"delta":{"role":"assistant","content":"","refusal":null}`...)
			dst = x.appendEnd(dst, nil, "")
		}
	}
	if c.Text != "" || len(c.Logprobs) > 0 && x.req.Logprobs {
		dst = append(dst, x.prefix...)
		if x.isChat {
			dst = append(dst, `{"index":0,"delta":{"content":`...)
			dst = wire.AppendString(dst, c.Text)
			dst = append(dst, '}')
		} else {
			dst = append(dst, `{"index":0,"text":`...)
			dst = wire.AppendString(dst, c.Text)
		}
		dst = x.appendEnd(dst, c.Logprobs, "")
	}
	if c.Finish != "" {
		dst = x.appendLast(dst, c)
	}
	return dst
}

func (x *Exchange) appendLast(dst []byte, c *cluster.Chunk) []byte {
	dst = append(dst, x.prefix...)
	if x.isChat {
		dst = append(dst, `{"index":0,"delta":{}`...)
	} else {
		dst = append(dst, `{"index":0,"text":""`...)
	}
	dst = x.appendEnd(dst, nil, c.Finish)
	if x.withUsage {
		usage := c.Usage
		if usage == nil {
			usage = &cluster.Usage{}
		}
		dst = append(dst, x.prefix...)
		dst = append(dst, `],"usage":`...)
		dst = appendUsage(dst, usage)
		dst = append(dst, "}\n\n"...)
	}
	return append(dst, "data: [DONE]\n\n"...)
}

// appendEnd appends what follows the text in an event.
func (x *Exchange) appendEnd(dst []byte, probs []cluster.TokenLogprob, finish cluster.FinishReason) []byte {
	dst = x.appendRest(dst, probs, finish)
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
