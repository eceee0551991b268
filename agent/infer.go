package agent

import (
	"context"
	"errors"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// infer answers one attempt of a request.
func (a *Agent) infer(ctx context.Context, decode func(any) error, w *bus.StreamWriter) error {
	var q bus.InferRequest
	if err := decode(&q); err != nil {
		return err
	}
	leave, err := a.gate.enter()
	if err != nil {
		return a.here(err)
	}
	defer leave()
	if err := a.admit(&q); err != nil {
		return a.here(err)
	}
	m, dir, err := a.find(ctx, &q.Model)
	if err != nil {
		return a.here(err)
	}
	return a.here(a.generate(ctx, m, dir, &q.Request, w))
}

// find returns a model as it lies on this machine's disk, and its folder. It must be what the controller placed.
func (a *Agent) find(ctx context.Context, placed *cluster.Model) (cluster.Model, string, error) {
	m, dir, err := a.o.Library.Resolve(ctx, placed.Name)
	if err == nil && placed.Digest != "" && placed.Digest != m.Digest {
		poke(a.rescan)
		err = cluster.Errorf(cluster.CodeConflict, "model %s has changed on the disk of this node", m.Name).
			WithHint("send the request again")
	}
	return m, dir, err
}

// admit checks what can be checked without the model.
func (a *Agent) admit(q *bus.InferRequest) error {
	if q.Attempt == "" {
		return cluster.Invalid("attempt", "is missing")
	}
	if q.Model.Name == "" {
		q.Model.Name = q.Request.Model
	}
	if err := q.Request.Validate(); err != nil {
		return err
	}
	if !a.recent.add(q.Attempt, a.o.clock()) {
		return cluster.Errorf(cluster.CodeConflict, "attempt %s came twice", q.Attempt)
	}
	return nil
}

// generate relays an answer. A reader that is slow holds up its own answer alone; one that is gone ends it.
func (a *Agent) generate(ctx context.Context, m cluster.Model, dir string, req *cluster.Request, w *bus.StreamWriter) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer a.running.add(cancel)()
	err := a.pool.Generate(ctx, m, dir, req, func(c cluster.Chunk) {
		if ctx.Err() != nil {
			return // what comes after a gap is no part of the answer
		}
		if err := w.Send(c); err != nil {
			cancel(err)
		}
	})
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// here adds this node to an error that names none.
func (a *Agent) here(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	e := *cluster.AsError(err)
	if e.Node == "" {
		e.Node = a.o.ID
	}
	return &e
}
