package cluster_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

func TestPiecesOfAReplyMakeItAgain(t *testing.T) {
	t.Parallel()
	vectors := make([]cluster.Vector, 40)
	for i := range vectors {
		vectors[i] = make(cluster.Vector, 4096)
		vectors[i][i] = float32(math.Pi) * float32(i)
	}
	for name, c := range map[string]struct {
		reply  cluster.AsideReply
		pieces int
	}{
		"vectors":      {cluster.AsideReply{Vectors: vectors, PromptTokens: 7}, 3}, // 16 of 4,096 numbers in each
		"large vector": {cluster.AsideReply{Vectors: []cluster.Vector{make(cluster.Vector, 100_000)}}, 1},
		"tokens":       {cluster.AsideReply{Tokens: make([]int, 65_537)}, 2},
		"text":         {cluster.AsideReply{Text: "Oslo é\n"}, 1},
		"nothing":      {cluster.AsideReply{}, 1},
	} {
		var got cluster.AsideReply
		pieces := c.reply.Pieces()
		if len(pieces) != c.pieces {
			t.Errorf("%s: %d pieces, want %d", name, len(pieces), c.pieces)
		}
		for _, p := range pieces {
			data, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			if len(data) > 1<<20 {
				t.Errorf("%s: a piece has %d bytes", name, len(data))
			}
			var read cluster.AsideReply
			if err := json.Unmarshal(data, &read); err != nil {
				t.Fatal(err)
			}
			got.Add(&read)
		}
		if diff := cmp.Diff(c.reply, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestAsidesAreChecked(t *testing.T) {
	t.Parallel()
	text := "fox"
	embed := &cluster.EmbedRequest{Inputs: []cluster.EmbedInput{{Prompt: text}}}
	for name, c := range map[string]struct {
		aside cluster.Aside
		field string
	}{
		"vectors":    {cluster.Aside{Model: "m", Embed: embed}, ""},
		"tokens":     {cluster.Aside{Model: "m", Tokenize: &cluster.Request{Prompt: &text}}, ""},
		"text":       {cluster.Aside{Model: "m", Detokenize: []int{1}}, ""},
		"no model":   {cluster.Aside{Embed: embed}, "model"},
		"long model": {cluster.Aside{Model: strings.Repeat("m", cluster.MaxModelBytes+1), Detokenize: []int{1}}, "model"},
		"longest":    {cluster.Aside{Model: strings.Repeat("m", cluster.MaxModelBytes), Detokenize: []int{1}}, ""},
		"nothing":    {cluster.Aside{Model: "m"}, "request"},
		"two things": {cluster.Aside{Model: "m", Embed: embed, Detokenize: []int{1}}, "request"},
		"no inputs":  {cluster.Aside{Model: "m", Embed: &cluster.EmbedRequest{}}, "inputs"},
		"no prompt":  {cluster.Aside{Model: "m", Tokenize: &cluster.Request{}}, "messages"},
		"time":       {cluster.Aside{Model: "m", Detokenize: []int{1}, Timeout: -1}, "timeout"},
	} {
		err := c.aside.Validate()
		if c.field == "" && err != nil || c.field != "" && (err == nil || cluster.AsError(err).Field != c.field) {
			t.Errorf("%s: got %v, want field %q", name, err, c.field)
		}
	}
	for _, bad := range []string{`"AAA="`, `""`, `[1]`, `"?"`} {
		var v cluster.Vector
		if err := json.Unmarshal([]byte(bad), &v); err == nil {
			t.Errorf("%s is read as %v", bad, v)
		}
	}
}
