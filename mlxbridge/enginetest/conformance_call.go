package enginetest

import (
	"context"
	"math"
	"slices"
	"strings"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func (c *conformance) embeds() {
	t := c.t
	texts := []string{"Norway", "Count from 1 to 20.", "fox fox fox fox fox fox fox fox fox", "Norway"}
	for _, pooling := range []cluster.Pooling{"", cluster.PoolingMean} {
		req := &cluster.EmbedRequest{Model: c.spec.Model.Name, Pooling: pooling}
		for _, text := range texts {
			req.Inputs = append(req.Inputs, cluster.EmbedInput{Prompt: text})
		}
		got, err := c.engine.Embed(t.Context(), req)
		if err != nil || len(got.Vectors) != len(texts) || got.PromptTokens < len(texts) {
			t.Fatalf("%d vectors of %d tokens, %v", len(got.Vectors), got.PromptTokens, err)
		}
		for i, v := range got.Vectors {
			if len(v) == 0 || len(v) != len(got.Vectors[0]) || math.Abs(length(v)-1) > 1e-4 {
				t.Errorf("vector %d has %d numbers and length %f", i, len(v), length(v))
			}
			req.Inputs = []cluster.EmbedInput{{Prompt: texts[i]}}
			alone, err := c.engine.Embed(t.Context(), req)
			if err != nil || len(alone.Vectors) != 1 || furthest(alone.Vectors[0], v) > 1e-5 {
				t.Errorf("the vector of %q is another one alone: %v", texts[i], err)
			}
		}
		if furthest(got.Vectors[0], got.Vectors[1]) < 1e-3 {
			t.Error("different texts have the same vector")
		}
	}
}

func length(v []float32) float64 {
	sum := 0.0
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	return math.Sqrt(sum)
}

func furthest(a, b []float32) float64 {
	most := 0.0
	for i := range a {
		most = max(most, math.Abs(float64(a[i])-float64(b[i])))
	}
	return most
}

func (c *conformance) embedRefuses() {
	t := c.t
	long := strings.Repeat("fox ", c.engine.Info().Context+1)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	refuses := func(ctx context.Context, want cluster.Code, inputs ...cluster.EmbedInput) {
		got, err := c.engine.Embed(ctx, &cluster.EmbedRequest{Model: c.spec.Model.Name, Inputs: inputs})
		if code := cluster.CodeOf(err); code != want || len(got.Vectors) > 0 {
			t.Errorf("got %q, want %q: %v", code, want, err)
		}
	}
	refuses(t.Context(), cluster.CodeContext, cluster.EmbedInput{Prompt: "fox"}, cluster.EmbedInput{Prompt: long})
	refuses(t.Context(), cluster.CodeInvalid)
	refuses(cancelled, cluster.CodeCancelled, cluster.EmbedInput{Prompt: "fox"})
}

func (c *conformance) tokenizes() {
	t := c.t
	text := "Count from 1 to 12."
	tokens, err := c.engine.Tokenize(t.Context(), &cluster.Request{Model: c.spec.Model.Name, Prompt: &text})
	if err != nil || len(tokens) == 0 {
		t.Fatalf("got %v, %v", tokens, err)
	}
	back, err := c.engine.Detokenize(t.Context(), tokens)
	if err != nil || back != text {
		t.Errorf("%q became %q, %v", text, back, err)
	}
	chat, err := c.engine.Tokenize(t.Context(), c.count(12))
	if a := c.ask(t.Context(), t, c.count(12)); err != nil || a.Err != nil || a.Last.Usage.PromptTokens != len(chat) {
		t.Errorf("%d tokens, but %+v were counted: %v, %v", len(chat), a.Last.Usage, err, a.Err)
	}
	if text, err := c.engine.Detokenize(t.Context(), slices.Repeat([]int{-1}, 2)); cluster.CodeOf(err) != cluster.CodeInvalid {
		t.Errorf("no tokens became %q, %v", text, err)
	}
	if _, err := c.engine.Tokenize(t.Context(), &cluster.Request{Model: "m"}); cluster.CodeOf(err) != cluster.CodeInvalid {
		t.Errorf("no prompt: %v", err)
	}
}
