package mlxbridge_test

import (
	"math"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

func TestWorkerTakesEveryFieldOfARequest(t *testing.T) {
	t.Parallel()
	engine := launch(t, enginetest.RealLauncher(t), enginetest.Tiny(t))
	ask := func(change func(*cluster.Request)) (enginetest.Answer, []cluster.TokenLogprob) {
		req := enginetest.Count("tiny", 12)
		change(req)
		var probs []cluster.TokenLogprob
		a := enginetest.Collect(t, func(emit func(cluster.Chunk)) error {
			return engine.Generate(t.Context(), req, func(c cluster.Chunk) {
				probs = append(probs, c.Logprobs...)
				emit(c)
			})
		})
		return a, probs
	}

	t.Run("log probabilities", func(t *testing.T) {
		a, probs := ask(func(r *cluster.Request) { r.Logprobs, r.TopLogprobs = true, 2 })
		if a.Err != nil || a.Text != enginetest.Counted(1, 12) || len(probs) != len(a.Tokens) {
			t.Fatalf("%q, %v, %d log probabilities for %d tokens", a.Text, a.Err, len(probs), len(a.Tokens))
		}
		for i, p := range probs {
			if p.Token != a.Tokens[i] || len(p.Top) != 2 || p.Top[0].Token != p.Token || p.Logprob > 0 || math.IsNaN(p.Logprob) {
				t.Errorf("token %d: %+v", a.Tokens[i], p)
			}
		}
	})
	t.Run("seed", func(t *testing.T) {
		hot, seed, most, text := 2.0, int64(11), 12, "The" // after which there is much to choose from
		draw := func(r *cluster.Request) {
			r.Temperature, r.Seed, r.MaxTokens = &hot, &seed, &most
			r.Prompt, r.Messages = &text, nil
		}
		first, _ := ask(draw)
		second, _ := ask(draw)
		seed = 12
		third, _ := ask(draw)
		if first.Err != nil || first.Text != second.Text {
			t.Errorf("the same seed: %q and %q, %v", first.Text, second.Text, first.Err)
		}
		if first.Text == third.Text {
			t.Errorf("another seed, the same text: %q", first.Text)
		}
	})
	t.Run("session", func(t *testing.T) {
		talk := func(r *cluster.Request) {
			r.Session = "s"
			r.Messages = []cluster.Message{
				{Role: "user", Content: strings.Repeat("Count from 1 to 12. ", 20)},
				{Role: "assistant", Content: "1"},
				{Role: "user", Content: "Count from 1 to 12."},
			}
		}
		ask(talk)
		if a, _ := ask(talk); a.Err != nil || a.Last.Usage.CachedTokens < a.Last.Usage.PromptTokens/2 {
			t.Errorf("usage %+v, %v", a.Last.Usage, a.Err)
		}
	})
	for field, change := range map[string]func(*cluster.Request){
		"logit_bias": func(r *cluster.Request) { r.LogitBias = map[int]float64{1 << 20: 1} },
		"top_p":      func(r *cluster.Request) { p := 1.5; r.TopP = &p },
		"continue":   func(r *cluster.Request) { r.Continue = []int{1 << 20} },
		"prompt":     func(r *cluster.Request) { text := ""; r.Prompt, r.Messages = &text, nil },
	} {
		t.Run("wrong "+field, func(t *testing.T) {
			a, _ := ask(change)
			mustCode(t, a.Err, cluster.CodeInvalid)
			if got := cluster.AsError(a.Err).Field; got != field || a.Chunks > 0 {
				t.Errorf("it names %q after %d chunks: %v", got, a.Chunks, a.Err)
			}
		})
	}
}
