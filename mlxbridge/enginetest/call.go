package enginetest

import (
	"context"
	"hash/fnv"
	"math"
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// fakeDimensions is the length of the vectors of a fake engine.
const fakeDimensions = 8

// Embed makes vectors of hashes: the same text has the same one.
func (e *Engine) Embed(ctx context.Context, req *cluster.EmbedRequest) (cluster.Embeddings, error) {
	if err := e.refuses(ctx); err != nil {
		return cluster.Embeddings{}, err
	}
	if len(req.Inputs) == 0 {
		return cluster.Embeddings{}, cluster.Invalid("inputs", "must hold at least one text")
	}
	var out cluster.Embeddings
	for _, in := range req.Inputs {
		text, tokens := in.Prompt, len(strings.Fields(in.Prompt))
		if len(in.Tokens) > 0 {
			tokens = len(in.Tokens)
			var err error
			if text, err = e.Detokenize(ctx, in.Tokens); err != nil {
				return cluster.Embeddings{}, err
			}
		}
		if tokens > e.info.Context {
			return cluster.Embeddings{}, cluster.Errorf(cluster.CodeContext,
				"an input has %d tokens, the model's context is %d", tokens, e.info.Context)
		}
		out.PromptTokens += tokens
		out.Vectors = append(out.Vectors, fakeVector(text))
	}
	return out, nil
}

func fakeVector(text string) []float32 {
	v, sum := make([]float32, fakeDimensions), 0.0
	h := fnv.New32a()
	_, _ = h.Write([]byte(text)) // never fails
	for i := range v {
		_, _ = h.Write([]byte{byte(i)})
		x := float64(h.Sum32()%1000) + 1
		v[i] = float32(x)
		sum += x * x
	}
	for i := range v {
		v[i] /= float32(math.Sqrt(sum))
	}
	return v
}

// Tokenize gives every word an id when it comes for the first time.
func (e *Engine) Tokenize(ctx context.Context, req *cluster.Request) ([]int, error) {
	if err := e.refuses(ctx); err != nil {
		return nil, err
	}
	if req.Prompt == nil && len(req.Messages) == 0 {
		return nil, cluster.Invalid("messages", "is missing")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	tokens := []int{}
	for word := range strings.FieldsSeq(promptOf(req)) {
		id, known := e.ids[word]
		if !known {
			id = len(e.words)
			e.ids[word] = id
			e.words = append(e.words, word)
		}
		tokens = append(tokens, id)
	}
	return tokens, nil
}

// Detokenize joins words with spaces.
func (e *Engine) Detokenize(ctx context.Context, tokens []int) (string, error) {
	if err := e.refuses(ctx); err != nil {
		return "", err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	words := make([]string, len(tokens))
	for i, t := range tokens {
		if t < 0 || t >= len(e.words) {
			return "", cluster.Invalid("tokens", "holds what is no token")
		}
		words[i] = e.words[t]
	}
	return strings.Join(words, " "), nil
}

func (e *Engine) refuses(ctx context.Context) error {
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	return e.endedBy()
}
