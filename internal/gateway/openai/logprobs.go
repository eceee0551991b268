package openai

import (
	"unicode/utf8"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/gateway/wire"
)

func appendChatProbs(dst []byte, probs []cluster.TokenLogprob) []byte {
	dst = append(dst, `{"content":[`...)
	for i := range probs {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendToken(dst, &probs[i])
		dst = append(dst, `,"top_logprobs":[`...)
		for j := range probs[i].Top {
			if j > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendToken(dst, &probs[i].Top[j]), '}')
		}
		dst = append(dst, "]}"...)
	}
	return append(dst, `],"refusal":null}`...)
}

// appendToken leaves the object open.
func appendToken(dst []byte, t *cluster.TokenLogprob) []byte {
	dst = append(dst, `{"token":`...)
	dst = wire.AppendString(dst, t.Text)
	dst = append(dst, `,"logprob":`...)
	dst = wire.AppendLog(dst, t.Logprob)
	dst = append(dst, `,"bytes":`...)
	return wire.AppendBytes(dst, t.Bytes)
}

// appendTextProbs appends the shape of completions. offset is where the first token begins, in characters of the
// answer; the end of the last one is returned.
func appendTextProbs(dst []byte, probs []cluster.TokenLogprob, offset int) (rest []byte, end int) {
	column := func(name string, appendCell func(dst []byte, t *cluster.TokenLogprob) []byte) {
		dst = append(dst, '"')
		dst = append(dst, name...)
		dst = append(dst, `":[`...)
		for i := range probs {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendCell(dst, &probs[i])
		}
		dst = append(dst, ']')
	}
	dst = append(dst, '{')
	column("tokens", func(dst []byte, t *cluster.TokenLogprob) []byte { return wire.AppendString(dst, t.Text) })
	dst = append(dst, ',')
	column("token_logprobs", func(dst []byte, t *cluster.TokenLogprob) []byte { return wire.AppendLog(dst, t.Logprob) })
	dst = append(dst, ',')
	column("top_logprobs", appendTop)
	dst = append(dst, ',')
	column("text_offset", func(dst []byte, t *cluster.TokenLogprob) []byte {
		dst = wire.AppendInt(dst, offset)
		offset += utf8.RuneCountInString(t.Text)
		return dst
	})
	return append(dst, '}'), offset
}

// appendTop appends the alternatives and the chosen token by their text. Different tokens may share a text, as pieces
// of characters do: the likelier one is kept.
func appendTop(dst []byte, t *cluster.TokenLogprob) []byte {
	best := make(map[string]float64, len(t.Top)+1)
	order := make([]string, 0, len(t.Top)+1)
	add := func(text string, logprob float64) {
		old, known := best[text]
		if !known {
			order = append(order, text)
		}
		if !known || logprob > old {
			best[text] = logprob
		}
	}
	for i := range t.Top {
		add(t.Top[i].Text, t.Top[i].Logprob)
	}
	add(t.Text, t.Logprob)
	dst = append(dst, '{')
	for i, text := range order {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = wire.AppendString(dst, text)
		dst = append(dst, ':')
		dst = wire.AppendLog(dst, best[text])
	}
	return append(dst, '}')
}
