package controller

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

// outcome is how an attempt ended. A final error is one that no other attempt would mend.
type outcome struct {
	err   error
	final bool
}

// attempt tries the request on one node.
func (d *dispatch) attempt(ctx context.Context, p cluster.Placement) outcome {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	id := rand.Text() // it is part of subjects
	body := bus.InferRequest{Request: *d.req, Model: p.Model, Attempt: cluster.AttemptID(id)}
	stream, detach, err := d.c.openStream(ctx, cancel, p.Node, bus.VerbInfer, id, body)
	if err != nil {
		return outcome{err: err}
	}
	defer detach()
	defer stream.Close()
	limit := d.c.o.Deadlines.FirstToken
	late := timeoutError(p.Node, "node %s gave no first token within %s", d.c.nameOf(p.Node), limit)
	first := time.AfterFunc(limit, func() { cancel(late) })
	defer first.Stop()
	err = d.relay(ctx, stream, p.Node, first)
	if err != nil {
		stream.Cancel()
		err = onNode(causeOr(ctx, err), p.Node)
	}
	return outcome{err: err, final: errors.Is(err, late)}
}

// openStream starts a stream with a node, which has to accept it soon. cancel is called when the node is lost, until
// detach.
func (c *Controller) openStream(ctx context.Context, cancel context.CancelCauseFunc, node cluster.NodeID, verb, id string, body any) (*bus.Stream, func(), error) {
	detach, err := c.registry.attach(node, cancel)
	if err != nil {
		return nil, nil, err
	}
	limit := c.o.Deadlines.Accept
	accept, stop := context.WithTimeoutCause(ctx, limit,
		timeoutError(node, "node %s did not accept the request within %s", c.nameOf(node), limit))
	defer stop()
	stream, err := c.o.Conn.OpenStream(accept, bus.StreamCall{
		Subject: bus.CommandSubject(node, verb), Reply: bus.ReplySubject(node, id), Control: bus.ControlSubject(node),
		ID: id, Gap: c.o.Deadlines.Gap, Body: body,
	})
	if err != nil {
		detach()
		return nil, nil, onNode(causeOr(accept, err), node)
	}
	return stream, detach, nil
}

// relay hands chunks on until the last one.
func (d *dispatch) relay(ctx context.Context, stream *bus.Stream, node cluster.NodeID, first *time.Timer) error {
	begun, finished := false, false
	for {
		var chunk cluster.Chunk
		err := stream.Next(ctx, &chunk)
		switch {
		case finished: // what else may come is no part of the answer
			return nil
		case errors.Is(err, io.EOF):
			return cluster.Errorf(cluster.CodeInternal, "node %s ended the answer without its last part", d.c.nameOf(node))
		case err != nil:
			return err
		}
		if chunk.Progress == nil {
			first.Stop()
		}
		if finished = chunk.Finish != ""; finished && chunk.Usage != nil {
			chunk.Usage.Queue = d.record.waited()
		}
		if !begun || finished || chunk.Progress != nil {
			chunk.Node = node
		}
		begun = begun || chunk.Progress == nil
		d.c.ledger.took(d.c.now(), d.record, &chunk)
		if !d.send(&chunk) {
			return context.Cause(ctx)
		}
	}
}

// onNode adds the node to an error that does not name one.
func onNode(err error, node cluster.NodeID) error {
	var e *cluster.Error
	if !errors.As(err, &e) || e.Node != "" {
		return err
	}
	named := *e
	named.Node = node
	return &named
}

// causeOr returns why ctx ended, if it did, and else err.
func causeOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// timeoutError is the end of one deadline on a node.
func timeoutError(node cluster.NodeID, format string, args ...any) *cluster.Error {
	e := cluster.Errorf(cluster.CodeTimeout, format, args...)
	e.Node = node
	return e
}
