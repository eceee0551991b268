package mlxbridge_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// The prompt is one token that is known from the vocabulary, the tokens to continue are ours: the whole is known here.
func TestWorkerTellsWhatItHasCached(t *testing.T) {
	t.Parallel()
	spec := enginetest.Tiny(t)
	spec.Options = mlxbridge.LaunchOptions{SessionSeconds: 60, StoredBits: 8}
	engine := launch(t, enginetest.RealLauncher(t), spec)
	comma, most := ",", 701
	sequence := []int{tokenID(t, spec.Dir, comma)}
	for i := range most - 1 {
		sequence = append(sequence, 100+i*13%900)
	}
	a := enginetest.Collect(t, func(emit func(cluster.Chunk)) error {
		req := &cluster.Request{Model: "tiny", Prompt: &comma, Continue: sequence[1:], MaxTokens: &most}
		return engine.Generate(t.Context(), req, emit)
	})
	if a.Err != nil {
		t.Fatal(a.Err)
	}
	want := cluster.PrefixChain(sequence, 9)
	if len(want) != 2 {
		t.Fatalf("%d digests of %d tokens", len(want), len(sequence))
	}
	waitFor(t, "the digests are there", func() bool { return slices.Equal(engine.Stats().Prefixes, want) })
	if replica := (&cluster.Replica{Prefixes: engine.Stats().Prefixes}); replica.CachedTokens(want) != 512 {
		t.Errorf("%d tokens are cached", replica.CachedTokens(want))
	}
}

func tokenID(tb testing.TB, dir, text string) int {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "tokenizer.json"))
	if err != nil {
		tb.Fatal(err)
	}
	var tokenizer struct {
		Model struct {
			Vocab map[string]int `json:"vocab"`
		} `json:"model"`
	}
	if err := json.Unmarshal(data, &tokenizer); err != nil {
		tb.Fatal(err)
	}
	id, ok := tokenizer.Model.Vocab[text]
	if !ok {
		tb.Fatalf("no token %q", text)
	}
	return id
}
