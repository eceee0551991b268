package openai

import (
	"encoding/json"
	"strconv"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway/wire"
)

// readCommon reads what chat completions and completions share.
func readCommon(o *wire.Object, x *Exchange) {
	req := x.req
	req.Model = o.String("model")
	if req.Model == "" {
		o.Fail("model", "is missing")
	}
	req.Temperature = o.Float("temperature")
	req.TopP = o.Float("top_p")
	req.TopK = o.Size("top_k")
	req.MinP = o.Float("min_p")
	req.RepetitionPenalty = o.Float("repetition_penalty")
	req.PresencePenalty = o.Float("presence_penalty")
	req.FrequencyPenalty = o.Float("frequency_penalty")
	req.Seed = o.Int("seed")
	req.Stop = o.Strings("stop")
	req.LogitBias = readBias(o)
	req.Session = readSession(o)
	x.choices = make([]choice, readChoices(o))
	req.Grammar = readFormat(o)
	for _, name := range constraints() {
		refuse(o, name, useFormat)
	}
	x.streams = o.Bool("stream")
	if o.Has("stream_options") {
		options := o.Object("stream_options")
		if !x.streams {
			o.Fail("stream_options", "needs stream to be true")
		}
		if options != nil {
			x.withUsage = options.Bool("include_usage")
			o.Take(options)
		}
	}
}

// constraints are fields of other servers that promise a form of the answer. To ignore them would break the promise.
func constraints() []string {
	return []string{
		"structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar", "json_schema",
	}
}

// readBias reads a map from token ids, which JSON makes strings of.
func readBias(o *wire.Object) map[int]float64 {
	var biases map[int]float64
	o.Members("logit_bias", func(key string, value json.RawMessage) {
		token, err := strconv.Atoi(key)
		bias, isNumber := wire.Number(value)
		// "00" and "+1" would be other names for tokens that have one.
		if err != nil || token < 0 || key != strconv.Itoa(token) || !isNumber || !(bias >= -100 && bias <= 100) {
			o.Fail("logit_bias", "must map token ids to numbers from -100 to 100")
			return
		}
		if biases == nil {
			biases = make(map[int]float64)
		}
		biases[token] = bias
	})
	return biases
}

// readSession takes what OpenAI's clients have to say which requests belong together.
func readSession(o *wire.Object) string {
	session := ""
	for _, name := range []string{"user", "prompt_cache_key"} { // the last one counts
		s := o.String(name)
		if len(s) > cluster.MaxSessionBytes {
			o.Fail(name, "may be at most "+strconv.Itoa(cluster.MaxSessionBytes)+" bytes long")
		}
		if s != "" {
			session = s
		}
	}
	return session
}

// maxTokens reads all names and takes the first that is there.
func maxTokens(o *wire.Object, names ...string) *int {
	var most *int
	for _, name := range names {
		n := o.Size(name)
		if n != nil && *n < 1 {
			o.Fail(name, "must be 1 or more, not "+strconv.Itoa(*n))
		}
		if most == nil {
			most = n
		}
	}
	return most
}

func bounded(o *wire.Object, name string, top int) int {
	if top < 0 || top > cluster.MaxTopLogprobs {
		o.Fail(name, "must be from 0 to "+strconv.Itoa(cluster.MaxTopLogprobs))
		return 0
	}
	return top
}

// mostChoices bounds what one request may start at once.
const mostChoices = 8

func readChoices(o *wire.Object) int {
	n := o.Size("n")
	switch {
	case n == nil:
		return 1
	case *n < 1 || *n > mostChoices:
		o.Fail("n", "must be from 1 to "+strconv.Itoa(mostChoices)+", not "+strconv.Itoa(*n))
		return 1
	}
	return *n
}

func onlyOne(o *wire.Object, name string) {
	switch n := o.Size(name); {
	case n == nil || *n == 1:
	case *n < 1:
		o.Fail(name, "must be 1 or more, not "+strconv.Itoa(*n))
	default:
		unsupported(o, name, "other than 1 is not supported: send one request for each answer")
	}
}

// refuse makes an error of a field that is there at all.
func refuse(o *wire.Object, name, claim string) {
	if o.Has(name) {
		unsupported(o, name, claim)
	}
}

func unsupported(o *wire.Object, name, claim string) {
	field := o.Path(name)
	o.FailWith(&cluster.Error{Code: cluster.CodeUnsupported, Field: field, Message: field + " " + claim})
}
