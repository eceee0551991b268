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
	id := rand.Text() // it is part of subjects
	body := bus.InferRequest{Request: *d.req, Model: p.Model, Attempt: cluster.AttemptID(id)}
	return d.exchange(ctx, p, bus.VerbInfer, id, body, "node %s gave no first token within %s",
		func(ctx context.Context, stream *bus.Stream, w watch) error { return d.relay(ctx, stream, p.Node, w) })
}

// exchange asks one node something and has read follow what comes. says is told, with the node's name and the limit, when
// the first piece is late: the limit holds until read moves the timer of its watch.
func (d *dispatch) exchange(
	ctx context.Context, p cluster.Placement, verb, id string, body any, says string,
	read func(context.Context, *bus.Stream, watch) error,
) outcome {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, detach, err := d.c.openStream(ctx, cancel, p.Node, verb, id, body)
	if err != nil {
		return outcome{err: err}
	}
	defer detach()
	defer func() { _ = stream.Close() }() // it gives no error
	limit := d.c.o.Deadlines.FirstToken
	late := timeoutError(p.Node, says, d.c.nameOf(p.Node), limit)
	first := time.AfterFunc(limit, func() { cancel(late) })
	defer first.Stop()
	if err = read(ctx, stream, watch{cancel, first}); err != nil {
		stream.Cancel()
		err = d.why(ctx, err, p.Node)
	}
	return outcome{err: err, final: errors.Is(err, late)}
}

// why says why an attempt failed, and learns from it.
func (d *dispatch) why(ctx context.Context, err error, node cluster.NodeID) error {
	if ctx.Err() != nil {
		return onNode(context.Cause(ctx), node)
	}
	switch cluster.CodeOf(err) {
	case cluster.CodeCancelled: // not by us
		return errorOn(node, cluster.CodeNodeLost, "node %s stopped answering: %s", d.c.nameOf(node), err)
	case cluster.CodeConflict, cluster.CodeNoModel, cluster.CodeBadModel:
		d.c.resolver.forget(d.req.Model) // what it said of the model is not true any more
	default:
	}
	return onNode(err, node)
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
		err = causeOr(accept, err)
		if cluster.CodeOf(err) == cluster.CodeUnreachable && ctx.Err() == nil && c.o.Conn.Connected() {
			c.onAbsent(node)
		}
		return nil, nil, onNode(err, node)
	}
	return stream, detach, nil
}

// onAbsent takes in that nobody listens where a node should: the notice of its end may not be here yet, or the bus gives
// none.
func (c *Controller) onAbsent(node cluster.NodeID) {
	c.tell(c.registry.absent(c.now(), node))
	c.askHello() // it may be back already
}

// watch ends an attempt that takes too long.
type watch struct {
	cancel context.CancelCauseFunc
	timer  *time.Timer // for the first token, then for each further piece
}

// relay hands chunks on until the last one.
func (d *dispatch) relay(ctx context.Context, stream *bus.Stream, node cluster.NodeID, w watch) error {
	begun, finished := false, false
	defer func() { w.timer.Stop() }()
	for {
		if begun { // only while the node is waited for, not the client
			w.timer.Reset(d.c.o.Deadlines.Token)
		}
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
			w.timer.Stop()
			if !begun {
				w.timer = d.stallTimer(node, w.cancel)
			}
		}
		if finished = chunk.Finish != ""; finished && chunk.Usage != nil {
			chunk.Usage.Queue = d.record.waited()
		}
		if !begun || finished || chunk.Progress != nil {
			chunk.Node, chunk.NodeName = node, d.c.nameOf(node)
		}
		begun = begun || chunk.Progress == nil
		d.c.ledger.took(d.c.now(), d.record, &chunk)
		if !d.send(&chunk) {
			return context.Cause(ctx)
		}
	}
}

// stallTimer ends an attempt whose answer does not go on. It has to be started.
func (d *dispatch) stallTimer(node cluster.NodeID, cancel context.CancelCauseFunc) *time.Timer {
	limit := d.c.o.Deadlines.Token
	stalled := timeoutError(node, "node %s stopped in the middle of the answer: nothing for %s", d.c.nameOf(node), limit)
	timer := time.AfterFunc(limit, func() { cancel(stalled) })
	timer.Stop()
	return timer
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
	return errorOn(node, cluster.CodeTimeout, format, args...)
}

func errorOn(node cluster.NodeID, code cluster.Code, format string, args ...any) *cluster.Error {
	e := cluster.Errorf(code, format, args...)
	e.Node = node
	return e
}
