package agent

import (
	"context"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// aside asks a model for something that is no answer.
func (a *Agent) aside(ctx context.Context, decode func(any) error, w *bus.StreamWriter) error {
	var q bus.AsideRequest
	if err := decode(&q); err != nil {
		return err
	}
	leave, err := a.gate.enter()
	if err != nil {
		return a.here(err)
	}
	defer leave()
	if q.Model.Name == "" {
		q.Model.Name = q.Aside.Model
	}
	if err := q.Aside.Validate(); err != nil {
		return a.here(err)
	}
	m, dir, err := a.find(ctx, &q.Model)
	if err != nil {
		return a.here(err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer a.running.add(cancel)()
	reply, err := a.ask(ctx, m, dir, &q.Aside)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return a.here(err)
	}
	for _, piece := range reply.Pieces() {
		if err := w.Send(piece); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) ask(ctx context.Context, m cluster.Model, dir string, q *cluster.Aside) (reply cluster.AsideReply, err error) {
	switch {
	case q.Embed != nil:
		found, err := a.pool.Embed(ctx, m, dir, q.Embed)
		for _, v := range found.Vectors {
			reply.Vectors = append(reply.Vectors, v)
		}
		reply.PromptTokens = found.PromptTokens
		return reply, err
	case q.Tokenize != nil:
		reply.Tokens, err = a.pool.Tokenize(ctx, m, dir, q.Tokenize)
	default:
		reply.Text, err = a.pool.Detokenize(ctx, m, dir, q.Detokenize)
	}
	return reply, err
}
