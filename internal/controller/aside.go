package controller

import (
	"context"
	"crypto/rand"
	"errors"
	"io"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Ask asks a model for something that is no answer, as Dispatch does for answers: it waits for its turn, has the model
// loaded where that is needed, and goes to another node when one is busy or lost. It is counted as a request. The error
// is a *cluster.Error. Ask is safe for concurrent use.
func (c *Controller) Ask(ctx context.Context, q *cluster.Aside) (*cluster.AsideReply, error) {
	req := &cluster.Request{ID: q.ID, Model: q.Model, Node: q.Node, Timeout: q.Timeout}
	if req.ID == "" {
		req.ID = cluster.RequestID("r-" + rand.Text()[:16])
	}
	if err := errors.Join(q.Validate(), validateID(req.ID)); err != nil {
		c.ledger.refused()
		return nil, cluster.AsError(err)
	}
	ctx, leave, err := c.gate.enter(ctx)
	if err != nil {
		c.ledger.refused()
		return nil, err
	}
	defer leave()
	ctx, stop := c.bound(ctx, req)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var reply cluster.AsideReply
	d := &dispatch{
		c: c, req: req, record: c.ledger.begin(c.now(), req), emit: func(cluster.Chunk) error { return nil }, leave: cancel,
	}
	try := func(ctx context.Context, p cluster.Placement) outcome {
		reply = cluster.AsideReply{}
		return d.ask(ctx, p, q, &reply)
	}
	if err := d.finish(typed(ctx, d.run(ctx, try))); err != nil {
		return nil, err
	}
	return &reply, nil
}

// ask tries it on one node.
func (d *dispatch) ask(ctx context.Context, p cluster.Placement, q *cluster.Aside, reply *cluster.AsideReply) outcome {
	body := bus.AsideRequest{Aside: *q, Model: p.Model}
	return d.exchange(ctx, p, bus.VerbAside, rand.Text(), body, "node %s did not answer within %s",
		func(ctx context.Context, stream *bus.Stream, _ watch) error {
			for {
				var piece cluster.AsideReply
				err := stream.Next(ctx, &piece)
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				reply.Add(&piece)
			}
		})
}
