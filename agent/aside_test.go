package agent_test

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

func (c *controller) aside(ctx context.Context, q bus.AsideRequest) (cluster.AsideReply, error) {
	var out cluster.AsideReply
	stream, err := c.open(bus.VerbAside, q)
	if err != nil {
		return out, err
	}
	defer func() { _ = stream.Close() }() // it gives no error
	for {
		var piece cluster.AsideReply
		err := stream.Next(ctx, &piece)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out.Add(&piece)
	}
}

func TestAsides(t *testing.T) {
	t.Parallel()
	c, r, n := pair(t, enginetest.Script{}, nil)
	text := "a red fox"
	embed := cluster.Aside{Model: "tiny", Embed: &cluster.EmbedRequest{Inputs: []cluster.EmbedInput{{Prompt: text}, {Prompt: "ox"}}}}
	got, err := c.aside(t.Context(), bus.AsideRequest{Aside: embed, Model: n.Models[0]})
	if err != nil || len(got.Vectors) != 2 || got.PromptTokens != 4 {
		t.Errorf("vectors: %+v, %v", got, err)
	}
	tokens, err := c.aside(t.Context(), bus.AsideRequest{Aside: cluster.Aside{Model: "tiny", Tokenize: &cluster.Request{Prompt: &text}}})
	if err != nil || len(tokens.Tokens) != 3 {
		t.Errorf("tokens: %+v, %v", tokens, err)
	}
	back, err := c.aside(t.Context(), bus.AsideRequest{Aside: cluster.Aside{Model: "tiny", Detokenize: tokens.Tokens}})
	if err != nil || back.Text != text {
		t.Errorf("text: %+v, %v", back, err)
	}
	_, err = c.aside(t.Context(), bus.AsideRequest{Aside: embed, Model: cluster.Model{Name: "tiny", Digest: "sha256:0"}})
	code(t, err, cluster.CodeConflict, "tiny has changed")
	_, err = c.aside(t.Context(), bus.AsideRequest{Aside: cluster.Aside{Model: "tiny"}})
	code(t, err, cluster.CodeInvalid, "exactly one")
	if e := cluster.AsError(err); e.Node != node {
		t.Errorf("the error names node %q", e.Node)
	}
	if n := r.launcher.Launches(); n != 1 {
		t.Errorf("%d launches, want 1", n)
	}
}
