package controller_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller"
)

func vectors(n, dimensions int) cluster.AsideReply {
	out := cluster.AsideReply{PromptTokens: n}
	for i := range n {
		v := make(cluster.Vector, dimensions)
		v[i%dimensions] = 1
		out.Vectors = append(out.Vectors, v)
	}
	return out
}

func embed() *cluster.Aside {
	return &cluster.Aside{Model: "tiny", Embed: &cluster.EmbedRequest{Inputs: []cluster.EmbedInput{{Prompt: "fox"}}}}
}

// TestAsides: 256 vectors of 4,096 numbers are 5.6 MB as they travel, in pieces.
func TestAsides(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	want := vectors(cluster.MaxEmbedInputs, 4096)
	var tried atomic.Int32
	s.node(t, "a", script{aside: func(context.Context, *bus.AsideRequest) (cluster.AsideReply, error) {
		tried.Add(1)
		return cluster.AsideReply{}, cluster.Errorf(cluster.CodeUnsupported, "no hidden states")
	}})
	c.ready(t, "a")
	_, err := c.Ask(t.Context(), embed())
	code(t, err, cluster.CodeUnsupported, "no hidden states")

	s.node(t, "b", script{aside: func(_ context.Context, q *bus.AsideRequest) (cluster.AsideReply, error) {
		if q.Model.Name != "tiny" || q.Aside.Embed.Inputs[0].Prompt != "fox" {
			t.Errorf("the node was asked for %+v", q)
		}
		return want, nil
	}})
	c.ready(t, "a", "b")
	for name, ask := range map[string]func(context.Context, *cluster.Aside) (*cluster.AsideReply, error){
		"controller": c.Ask, "client": s.client(t, "me").Ask,
	} {
		got, err := ask(t.Context(), embed())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !cmp.Equal(want, *got) {
			t.Errorf("%s: got %d other vectors", name, len(got.Vectors))
		}
	}
	if tried.Load() == 0 {
		t.Error("the node that cannot was never asked")
	}
	_, err = c.Ask(t.Context(), &cluster.Aside{Model: "tiny"})
	code(t, err, cluster.CodeInvalid, "exactly one")
	totals := c.over(t, 4).Totals
	if totals.Finished != 2 || totals.Failed != 2 {
		t.Errorf("totals are %+v", totals)
	}
}

func TestAsideThatTakesTooLong(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ended := make(chan error, 1)
	c := s.controller(t, func(o *controller.Options) { o.Deadlines.FirstToken = 2 * time.Second })
	s.node(t, "a", script{aside: func(ctx context.Context, _ *bus.AsideRequest) (cluster.AsideReply, error) {
		<-ctx.Done()
		ended <- ctx.Err()
		return cluster.AsideReply{}, context.Cause(ctx)
	}})
	c.ready(t, "a")
	_, err := c.Ask(t.Context(), embed())
	code(t, err, cluster.CodeTimeout, "did not answer within")
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the node goes on")
	}
}
