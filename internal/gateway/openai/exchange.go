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
	echo      bool // the answer begins with the prompt
	req       *cluster.Request

	id      string
	created int64 // Unix seconds

	// Of a stream: what every event begins with, up to its choice, and ends with.
	prefix, suffix []byte

	choices []choice
	ended   int // of choices
	usage   cluster.Usage
}

// Choices is how many answers are wanted. Each is a Request of its own.
func (x *Exchange) Choices() int { return len(x.choices) }

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

// Collect adds a chunk to a whole answer's choice.
func (x *Exchange) Collect(index int, c *cluster.Chunk) {
	x.choices[index].collect(c)
	if c.Finish != "" {
		x.account(c.Usage)
	}
}

// account adds the usage of a choice that ended, and says whether it was the last. All have one prompt: it counts once,
// with what was cached of it for the first that ended.
func (x *Exchange) account(u *cluster.Usage) bool {
	x.ended++
	switch {
	case u == nil:
	case x.usage.PromptTokens == 0:
		x.usage = *u
	default:
		x.usage.CompletionTokens += u.CompletionTokens
	}
	return x.ended == len(x.choices)
}

// AppendWhole appends the body of the answer, when all chunks are collected.
func (x *Exchange) AppendWhole(dst []byte) []byte {
	object := "chat.completion"
	if !x.isChat {
		object = "text_completion"
	}
	dst = x.appendHead(dst, object)
	for i := range x.choices {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = x.appendChoice(dst, i)
	}
	dst = append(dst, `],"usage":`...)
	dst = appendUsage(dst, &x.usage)
	return append(dst, "}\n"...)
}

func (x *Exchange) appendChoice(dst []byte, index int) []byte {
	c := &x.choices[index]
	dst = append(dst, `{"index":`...)
	dst = wire.AppendInt(dst, index)
	if x.isChat {
		dst = append(dst, `,"message":`...)
		dst = c.appendMessage(dst)
	} else {
		dst = append(dst, `,"text":`...)
		text := string(c.text)
		if x.echo {
			text = *x.req.Prompt + text
		}
		dst = wire.AppendString(dst, text)
	}
	return x.appendRest(dst, index, c.probs, c.finish)
}

// appendRest appends what follows the text in a choice, and its end.
func (x *Exchange) appendRest(dst []byte, index int, probs []cluster.TokenLogprob, finish cluster.FinishReason) []byte {
	dst = append(dst, `,"logprobs":`...)
	switch {
	case !x.req.Logprobs || len(probs) == 0:
		dst = append(dst, "null"...)
	case x.isChat:
		dst = appendChatProbs(dst, probs)
	default:
		c := &x.choices[index]
		dst, c.offset = appendTextProbs(dst, probs, c.offset)
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
	dst = append(dst, '}')
	if u.Shared {
		dst = append(dst, `,"shared":true`...)
	}
	return append(dst, '}')
}
