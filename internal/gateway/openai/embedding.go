package openai

import (
	"encoding/json"
	"strconv"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway/wire"
)

// Embedding is a request for vectors, and the way to render them.
type Embedding struct {
	aside    cluster.Aside
	isBase64 bool
}

// ParseEmbedding reads the body of a request for vectors. The error is a *cluster.Error that names the field.
func ParseEmbedding(body []byte) (*Embedding, error) {
	o, err := wire.Parse(body)
	if err != nil {
		return nil, err
	}
	e := &Embedding{aside: cluster.Aside{Model: model(o), Embed: &cluster.EmbedRequest{}}}
	e.aside.Embed.Inputs = readInputs(o)
	switch format := o.String("encoding_format"); format {
	case "", "float":
	case "base64":
		e.isBase64 = true
	default:
		o.Fail("encoding_format", "must be float or base64, not "+quote(format))
	}
	if o.Has("dimensions") {
		unsupported(o, "dimensions", "is not supported: vectors have as many as the model's hidden states")
	}
	e.aside.Embed.Pooling = cluster.Pooling(o.String("pooling")) // no field of OpenAI's
	if o.Err() != nil {
		return nil, o.Err()
	}
	return e, e.aside.Validate()
}

// Aside is what the cluster is asked.
func (e *Embedding) Aside() *cluster.Aside { return &e.aside }

// AppendReply appends the body of the answer.
func (e *Embedding) AppendReply(dst []byte, r *cluster.AsideReply) []byte {
	dst = append(dst, `{"object":"list","data":[`...)
	for i, v := range r.Vectors {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"object":"embedding","index":`...)
		dst = wire.AppendInt(dst, i)
		dst = append(dst, `,"embedding":`...)
		if e.isBase64 {
			dst = append(v.AppendBase64(append(dst, '"')), '"')
		} else {
			dst = appendNumbers(dst, v)
		}
		dst = append(dst, '}')
	}
	dst = append(dst, `],"model":`...)
	dst = wire.AppendString(dst, e.aside.Model)
	dst = append(dst, `,"usage":{"prompt_tokens":`...)
	dst = wire.AppendInt(dst, r.PromptTokens)
	dst = append(dst, `,"total_tokens":`...)
	dst = wire.AppendInt(dst, r.PromptTokens)
	return append(dst, "}}\n"...)
}

func appendNumbers(dst []byte, v cluster.Vector) []byte {
	dst = append(dst, '[')
	for i, f := range v {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendFloat(dst, float64(f), 'g', -1, 32) // numbers of JSON: the worker refuses what is not finite
	}
	return append(dst, ']')
}

func model(o *wire.Object) string {
	name := o.String("model")
	if name == "" {
		o.Fail("model", "is missing")
	}
	return name
}

// readInputs reads a text, several, the tokens of one, or those of several.
func readInputs(o *wire.Object) []cluster.EmbedInput {
	const field = "input"
	switch kind := o.Kind(field); kind {
	case "null":
		o.Fail(field, "is missing")
		return nil
	case "a string":
		return []cluster.EmbedInput{{Prompt: filled(o, field, o.String(field))}}
	case "an array":
	default:
		o.Fail(field, "must be a string or an array, not "+kind)
		return nil
	}
	list := o.List(field)
	if len(list) == 0 {
		o.Fail(field, "is empty")
		return nil
	}
	if isNumber(list[0]) {
		return []cluster.EmbedInput{{Tokens: tokens(o, field, list)}}
	}
	if len(list) > cluster.MaxEmbedInputs {
		o.Fail(field, "may hold at most "+strconv.Itoa(cluster.MaxEmbedInputs)+" texts")
		return nil
	}
	if list[0][0] != '[' {
		out := make([]cluster.EmbedInput, 0, len(list))
		for i, text := range o.Strings(field) {
			out = append(out, cluster.EmbedInput{Prompt: filled(o, member(field, i), text)})
		}
		return out
	}
	out := make([]cluster.EmbedInput, len(list))
	for i, raw := range list {
		var ids []json.RawMessage
		if json.Unmarshal(raw, &ids) != nil || len(ids) == 0 {
			o.Fail(member(field, i), "must be an array of token ids")
			return nil
		}
		out[i].Tokens = tokens(o, member(field, i), ids)
	}
	return out
}

func member(field string, i int) string { return field + "[" + strconv.Itoa(i) + "]" }

func filled(o *wire.Object, field, text string) string {
	if text == "" {
		o.Fail(field, "is empty")
	}
	return text
}

func tokens(o *wire.Object, field string, list []json.RawMessage) []int {
	out := make([]int, len(list))
	for i, raw := range list {
		id, err := strconv.Atoi(string(raw))
		if err != nil || id < 0 {
			o.Fail(field, "must hold token ids")
			return nil
		}
		out[i] = id
	}
	return out
}

// ParseTokenize reads the body of a request for tokens: that of a chat completion or of a completion.
func ParseTokenize(body []byte) (*cluster.Aside, error) {
	o, err := wire.Parse(body)
	if err != nil {
		return nil, err
	}
	parse := ParseCompletion
	if o.Has("messages") {
		parse = ParseChat
	}
	x, err := parse(body)
	if err != nil {
		return nil, err
	}
	return &cluster.Aside{Model: x.req.Model, Tokenize: x.req}, nil
}

// AppendTokens appends the body of the answer to a request for tokens. A context of 0 is not known.
func (Dialect) AppendTokens(dst []byte, tokens []int, context int) []byte {
	dst = append(dst, `{"count":`...)
	dst = wire.AppendInt(dst, len(tokens))
	dst = append(dst, `,"max_model_len":`...)
	if context > 0 {
		dst = wire.AppendInt(dst, context)
	} else {
		dst = append(dst, "null"...)
	}
	dst = append(dst, `,"tokens":[`...)
	for i, id := range tokens {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = wire.AppendInt(dst, id)
	}
	return append(dst, "]}\n"...)
}

// ParseDetokenize reads the body of a request for the text of tokens.
func ParseDetokenize(body []byte) (*cluster.Aside, error) {
	o, err := wire.Parse(body)
	if err != nil {
		return nil, err
	}
	q := &cluster.Aside{Model: model(o)}
	if list := o.List("tokens"); len(list) > 0 {
		q.Detokenize = tokens(o, "tokens", list)
	} else {
		o.Fail("tokens", "is missing or empty")
	}
	return q, o.Err()
}

// AppendText appends the body of the answer to a request for text.
func (Dialect) AppendText(dst []byte, text string) []byte {
	return append(wire.AppendString(append(dst, `{"prompt":`...), text), "}\n"...)
}
