package controller

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Bounds on what one request may cost before its first token.
const (
	// mostFailures is how often nodes may be lost under a request, or be busy with nothing of ours.
	mostFailures = 5
	// mostCrashes is how many workers one request may take down with it.
	mostCrashes = 2
)

// Dispatch answers a request: it is the one way for every dialect and for the command line. It validates req, waits
// for its turn, and hands each chunk to emit in order, from one goroutine; the last has Finish set. Until the first
// token a node that is busy or lost is replaced silently. After it, and when nobody can answer, the error is a
// *cluster.Error. An error of emit means that the client is gone. req is not changed.
//
// Chunks with Progress come while the request waits. Dispatch is safe for concurrent use.
func (c *Controller) Dispatch(ctx context.Context, req *cluster.Request, emit func(cluster.Chunk) error) error {
	if err := validate(req); err != nil {
		c.ledger.refused()
		return err
	}
	ctx, leave, err := c.gate.enter(ctx)
	if err != nil {
		c.ledger.refused()
		return err
	}
	defer leave()
	own := *req
	if own.ID == "" {
		own.ID = cluster.RequestID("r-" + rand.Text()[:16])
	}
	ctx, stop := c.bound(ctx, &own)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d := &dispatch{c: c, req: &own, record: c.ledger.begin(c.now(), &own), emit: emit, leave: cancel}
	if c.shared.Enabled() {
		if key, ok := c.answerKey(&own); ok {
			return d.share(ctx, key)
		}
	}
	return d.finish(typed(ctx, d.run(ctx, d.attempt)))
}

// bound returns a context that ends with the time for the request.
func (c *Controller) bound(ctx context.Context, req *cluster.Request) (context.Context, context.CancelFunc) {
	total := c.o.Deadlines.Total
	if req.Timeout > 0 {
		total = req.Timeout
	}
	return context.WithTimeoutCause(ctx, total,
		cluster.Errorf(cluster.CodeTimeout, "the request was not answered within %s", total))
}

// validate checks what the request says, and that its id can stand in tables and logs.
func validate(req *cluster.Request) error {
	if err := req.Validate(); err != nil {
		return err
	}
	return validateID(req.ID)
}

func validateID(id cluster.RequestID) error {
	const most = 64
	if len(id) > most {
		return cluster.Invalid("id", fmt.Sprintf("may be at most %d bytes long", most))
	}
	for _, b := range []byte(id) {
		if b <= ' ' || b > '~' {
			return cluster.Invalid("id", "may hold visible ASCII characters only")
		}
	}
	return nil
}

// dispatch is one request on its way.
type dispatch struct {
	c      *Controller
	req    *cluster.Request
	record *record
	emit   func(cluster.Chunk) error
	leave  context.CancelCauseFunc // ends it: the client is gone

	ticket   ticket
	last     *cluster.Error // of the last attempt
	failures int
	crashes  int
}

// run tries one node after another until one succeeds, or no other would.
func (d *dispatch) run(ctx context.Context, try func(context.Context, cluster.Placement) outcome) error {
	d.ticket.req = d.req
	for {
		placement, err := d.place(ctx)
		if err != nil {
			return d.explain(err)
		}
		out := try(ctx, placement)
		isBusy := cluster.CodeOf(out.err) == cluster.CodeBusy
		left := d.c.placer.release(placement, isBusy)
		if out.err == nil {
			return nil
		}
		if ctx.Err() != nil || out.final || d.record.hasBegun() || !d.mayMove(placement.Node, out.err, left) {
			return out.err
		}
		d.record.displaced()
	}
}

// place finds the next node, waiting for it if need be.
func (d *dispatch) place(ctx context.Context) (cluster.Placement, error) {
	wait := d.c.o.Deadlines.Queue
	ctx, stop := context.WithTimeoutCause(ctx, wait-d.record.waited(),
		cluster.Errorf(cluster.CodeTimeout, "no node was free for the request within %s", wait).
			WithHint("try again later, or add a node"))
	defer stop()
	began := d.c.now()
	var placement cluster.Placement
	err := d.c.whenBack(ctx, lacksNodes, func() (err error) {
		d.ticket.resolved, d.ticket.unresolved, err = d.c.resolve(ctx, d.req.Model)
		if err == nil {
			placement, err = d.c.placer.claim(ctx, &d.ticket, d.tellQueued)
		}
		return err
	})
	waited := d.c.now().Sub(began)
	if err != nil {
		return placement, err
	}
	d.record.placed(placement.Node, placement.Cold, waited)
	return placement, nil
}

func (d *dispatch) tellQueued() {
	d.send(&cluster.Chunk{Progress: &cluster.Progress{Phase: cluster.PhaseQueued}})
}

// send gives a chunk to the client and says whether it is still there.
func (d *dispatch) send(c *cluster.Chunk) bool {
	err := d.emit(*c)
	if err != nil {
		d.leave(&cluster.Error{Code: cluster.CodeCancelled, Message: "the client went away: " + err.Error()})
	}
	return err == nil
}

// mayMove decides whether a request that failed before its first token goes on, elsewhere or after a wait. left is what
// the node still has of ours.
func (d *dispatch) mayMove(node cluster.NodeID, err error, left int) bool {
	d.last = cluster.AsError(err)
	refusal := cluster.Refusal{Node: node, Code: d.last.Code, Reason: d.last.Message}
	switch d.last.Code {
	case cluster.CodeBusy:
		if left == 0 { // no end of ours will make room there
			d.failures++
		}
		return d.failures < mostFailures
	case cluster.CodeNodeLost, cluster.CodeUnreachable, cluster.CodeTimeout, cluster.CodeConflict: // it changed, maybe
		d.failures++
		d.ticket.avoided = append(d.ticket.avoided, refusal)
		return d.failures < mostFailures
	case cluster.CodeWorkerCrashed:
		d.crashes++
		d.ticket.barred = append(d.ticket.barred, refusal)
		return d.crashes < mostCrashes
	case cluster.CodeQuarantined, cluster.CodeNoFit, cluster.CodeNoModel, cluster.CodeBadModel, cluster.CodeUnsupported:
		d.ticket.barred = append(d.ticket.barred, refusal)
		return true
	default:
		return false
	}
}

// explain chooses between why no node can be found and why the last one failed.
func (d *dispatch) explain(err error) error {
	if d.last == nil {
		return err
	}
	switch code := cluster.CodeOf(err); code {
	case cluster.CodeNoNode, cluster.CodeNoModel, d.last.Code:
		return d.last
	default:
		return err
	}
}

// finish closes the record with how the request ended, and tells operators of a failure that is not its client's.
func (d *dispatch) finish(err error) error {
	d.c.ledger.end(d.c.now(), d.record, err)
	e := cluster.AsError(err)
	if e == nil {
		return nil
	}
	switch e.Code {
	case cluster.CodeCancelled, cluster.CodeInvalid, cluster.CodeContext, cluster.CodeTooLarge:
		return err
	default:
	}
	d.c.events.publish(cluster.Event{
		At: d.c.now(), Kind: cluster.EventRequestError, Node: e.Node, Model: d.req.Model, Request: d.req.ID, Message: e.Message,
	})
	return err
}

// typed makes a *cluster.Error of err, unless it is nil: the reason for the end of ctx, where that is what it is.
func typed(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
		err = cause
	}
	e := cluster.AsError(err)
	if e.Code == cluster.CodeCancelled && e.Message == context.Canceled.Error() {
		return cluster.Errorf(cluster.CodeCancelled, "the client went away")
	}
	return e
}
