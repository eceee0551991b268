package openai

import (
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway/wire"
)

// Exchange is one request and the way to answer it: as events with AppendChunk, or whole with Collect and AppendWhole.
// Not safe for concurrent use.
type Exchange struct {
	isChat    bool
	streams   bool
	withUsage bool
	req       *cluster.Request

	id      string
	created int64 // Unix seconds

	// Of a stream: what every event begins with, up to its choice, and ends with.
	prefix, suffix []byte
	begun          bool

	// Of a whole answer.
	text   []byte
	probs  []cluster.TokenLogprob
	finish cluster.FinishReason
	usage  cluster.Usage

	offset int // characters in the logprobs so far; completions say where each token begins
}

// Request is what is asked for.
func (x *Exchange) Request() *cluster.Request { return x.req }

// Streams says whether the client wants events.
func (x *Exchange) Streams() bool { return x.streams }

// Begin names the answer, before anything of it is rendered.
func (x *Exchange) Begin(id string, at time.Time) {
	x.created = at.Unix()
	if x.isChat {
		x.id = "chatcmpl-" + id
	} else {
		x.id = "cmpl-" + id
	}
	if !x.streams {
		return
	}
	object := "chat.completion.chunk"
	if !x.isChat {
		object = "text_completion"
	}
	x.prefix = x.appendHead([]byte("data: "), object)
	if x.withUsage {
		x.suffix = append(x.suffix, `,"usage":null`...)
	}
	x.suffix = append(x.suffix, "}\n\n"...)
}

// appendHead appends an answer up to its choices.
func (x *Exchange) appendHead(dst []byte, object string) []byte {
	dst = append(dst, `{"id":`...)
	dst = wire.AppendString(dst, x.id)
	dst = append(dst, `,"object":"`...)
	dst = append(dst, object...)
	dst = append(dst, `","created":`...)
	dst = wire.AppendInt(dst, x.created)
	dst = append(dst, `,"model":`...)
	dst = wire.AppendString(dst, x.req.Model)
	return append(dst, `,"choices":[`...)
}

// Collect adds a chunk to a whole answer.
func (x *Exchange) Collect(c *cluster.Chunk) {
	x.text = append(x.text, c.Text...)
	x.probs = append(x.probs, c.Logprobs...)
	if c.Finish != "" {
		x.finish = c.Finish
	}
	if c.Usage != nil {
		x.usage = *c.Usage
	}
}

// AppendWhole appends the body of the answer, when all chunks are collected.
func (x *Exchange) AppendWhole(dst []byte) []byte {
	if x.isChat {
		dst = x.appendHead(dst, "chat.completion")
		dst = append(dst, `{"index":0,"message":{"role":"assistant","content":`...)
		dst = wire.AppendString(dst, string(x.text))
		dst = append(dst, `,"refusal":null}`...)
	} else {
		dst = x.appendHead(dst, "text_completion")
		dst = append(dst, `{"index":0,"text":`...)
		dst = wire.AppendString(dst, string(x.text))
	}
	dst = x.appendRest(dst, x.probs, x.finish)
	dst = append(dst, `],"usage":`...)
	dst = appendUsage(dst, &x.usage)
	return append(dst, "}\n"...)
}

// appendRest appends what follows the text in a choice, and its end.
func (x *Exchange) appendRest(dst []byte, probs []cluster.TokenLogprob, finish cluster.FinishReason) []byte {
	dst = append(dst, `,"logprobs":`...)
	switch {
	case !x.req.Logprobs || len(probs) == 0:
		dst = append(dst, "null"...)
	case x.isChat:
		dst = appendChatProbs(dst, probs)
	default:
		dst, x.offset = appendTextProbs(dst, probs, x.offset)
	}
	dst = append(dst, `,"finish_reason":`...)
	if finish == "" {
		return append(dst, "null}"...)
	}
	return append(wire.AppendString(dst, string(finish)), '}')
}

func appendUsage(dst []byte, u *cluster.Usage) []byte {
	dst = append(dst, `{"prompt_tokens":`...)
	dst = wire.AppendInt(dst, u.PromptTokens)
	dst = append(dst, `,"completion_tokens":`...)
	dst = wire.AppendInt(dst, u.CompletionTokens)
	dst = append(dst, `,"total_tokens":`...)
	dst = wire.AppendInt(dst, u.PromptTokens+u.CompletionTokens)
	dst = append(dst, `,"prompt_tokens_details":{"cached_tokens":`...)
	dst = wire.AppendInt(dst, u.CachedTokens)
	return append(dst, "}}"...)
}
