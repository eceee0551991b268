package openai

import (
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway/wire"
)

// ParseCompletion reads the body of a completion, as ParseChat does that of a chat completion.
func ParseCompletion(body []byte) (*Exchange, error) {
	o, err := wire.Parse(body)
	if err != nil {
		return nil, err
	}
	x := &Exchange{req: &cluster.Request{}}
	readCommon(o, x)
	readPrompt(o, x.req)
	x.echo = o.Bool("echo")
	if x.echo && o.Has("logprobs") {
		unsupported(o, "echo", "with logprobs is not supported: tokens of the prompt have none")
	}
	if o.Kind("suffix") != "a string" || o.String("suffix") != "" {
		refuse(o, "suffix", "is not supported: the model writes only after the prompt")
	}
	onlyOne(o, "best_of")
	x.req.MaxTokens = maxTokens(o, "max_tokens")
	if top := o.Size("logprobs"); top != nil {
		x.req.Logprobs = true
		x.req.TopLogprobs = bounded(o, "logprobs", *top)
	}
	return x, o.Err()
}

// readPrompt takes one text. Several prompts in one request, or tokens, are something else.
func readPrompt(o *wire.Object, req *cluster.Request) {
	var prompt string
	switch kind := o.Kind("prompt"); kind {
	case "null":
		o.Fail("prompt", "is missing")
	case "a string":
		prompt = o.String("prompt")
	case "an array":
		list := o.List("prompt")
		switch {
		case len(list) == 0:
			o.Fail("prompt", "is empty")
		case list[0][0] == '[' || list[0][0] != '"' && isNumber(list[0]):
			unsupported(o, "prompt", "of token ids is not supported: send text")
		case len(list) > 1:
			unsupported(o, "prompt", "may hold only one text: send one request for each")
		default:
			if texts := o.Strings("prompt"); len(texts) == 1 {
				prompt = texts[0]
			}
		}
	default:
		o.Fail("prompt", "must be a string, not "+kind)
	}
	if prompt == "" {
		o.Fail("prompt", "is empty")
	}
	req.Prompt = &prompt
}

func isNumber(raw []byte) bool {
	_, ok := wire.Number(raw)
	return ok
}
