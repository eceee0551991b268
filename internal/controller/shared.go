package controller

import (
	"context"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/share"
)

// answerKey says whether the request may share its answer, and with whom. Nodes that hold different models under the
// same name share nothing.
func (c *Controller) answerKey(req *cluster.Request) (share.Key, bool) {
	digest := ""
	nodes := c.registry.nodes().Nodes
	for i := range nodes {
		if nodes[i].State == cluster.NodeDown {
			continue
		}
		for _, m := range nodes[i].Models {
			if m.Name != req.Model {
				continue
			}
			if digest != "" && m.Digest != digest {
				return share.Key{}, false
			}
			digest = m.Digest
		}
	}
	return share.KeyOf(req, digest)
}

// share answers the request together with identical ones. The first of them is placed and has the record of the
// generation, for as long as anybody reads it; the others only read.
func (d *dispatch) share(ctx context.Context, key share.Key) error {
	answer, isShared := d.c.shared.Join(key, d.lead)
	if !isShared {
		return typed(ctx, answer.Follow(ctx, d.emitTo(ctx)))
	}
	d.record.shares()
	emit := d.emitTo(ctx)
	return d.finish(typed(ctx, answer.Follow(ctx, func(c cluster.Chunk) error {
		if c.Usage != nil {
			usage := *c.Usage
			usage.Shared = true
			c.Usage = &usage
		}
		d.record.follow(&c)
		return emit(c)
	})))
}

// lead makes the answer, for all who read it.
func (d *dispatch) lead(ctx context.Context, emit func(cluster.Chunk)) error {
	// Others may wait for longer than the one who came first.
	ctx, stop := d.c.bound(ctx, &cluster.Request{Timeout: max(d.req.Timeout, d.c.o.Deadlines.Total)})
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	leader := &dispatch{c: d.c, req: d.req, record: d.record, leave: cancel, emit: func(c cluster.Chunk) error {
		emit(c)
		return nil
	}}
	return leader.finish(typed(ctx, leader.run(ctx, leader.attempt)))
}

func (d *dispatch) emitTo(ctx context.Context) func(cluster.Chunk) error {
	return func(c cluster.Chunk) error {
		if !d.send(&c) {
			return context.Cause(ctx)
		}
		return nil
	}
}
