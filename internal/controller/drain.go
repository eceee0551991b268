package controller

import (
	"context"
	"fmt"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller/api"
)

const (
	// drainWait bounds the question to a node, drainSeen the wait for its heartbeat to say so too.
	drainWait, drainSeen = 5 * time.Second, 2 * time.Second
	// forgetWait is for a node that is on its way down.
	forgetWait = 2 * time.Second
)

// Drain has a node take nothing new, or again take what comes. It returns when requests are placed accordingly; what
// runs there goes on. The error has CodeNoNode for a node that nobody knows, and CodeUnreachable for one that is away.
func (c *Controller) Drain(ctx context.Context, node cluster.NodeID, on bool) error {
	ctx, leave, err := c.gate.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	n, ok := c.registry.find(node)
	if !ok {
		return noNode(node)
	}
	if n.State == cluster.NodeDown {
		return errorOn(node, cluster.CodeUnreachable, "node %s is down: %s", nodeName(&n), n.Reason).
			WithHint("it has to run to be asked; `mlxctl nodes` says when it is back")
	}
	ask, cancel := context.WithTimeoutCause(ctx, drainWait, timeoutError(node, "node %s did not answer within %s", nodeName(&n), drainWait))
	defer cancel()
	err = c.o.Conn.Request(ask, bus.CommandSubject(node, bus.VerbDrain), bus.DrainRequest{On: on}, nil)
	if err != nil {
		return typed(ask, onNode(err, node))
	}
	c.awaitNode(ctx, drainSeen, node, func(n *cluster.Node) bool {
		return n == nil || n.State == cluster.NodeDown || (n.State == cluster.NodeDraining) == on
	})
	what := "drains"
	if !on {
		what = "takes requests again"
	}
	c.events.publish(cluster.Event{
		At: c.now(), Kind: cluster.EventOperator, Node: node, Message: fmt.Sprintf("node %s %s", nodeName(&n), what),
	})
	return nil
}

// Forget takes a node that is down out of the list. The error has CodeConflict for one that is not down, and CodeNoNode
// for one that is not in the list. A node of the roster is put there again: remove it from the roster first. One that
// may still connect is back when it does: revoke its key first.
func (c *Controller) Forget(ctx context.Context, node cluster.NodeID) error {
	ctx, leave, err := c.gate.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	c.awaitNode(ctx, forgetWait, node, func(n *cluster.Node) bool { return n == nil || n.State != cluster.NodeSuspect })
	n, ok := c.registry.find(node)
	if !ok {
		return noNode(node)
	}
	if err := c.registry.forget(node); err != nil {
		return err
	}
	c.tell([]cluster.Event{{
		At: c.now(), Kind: cluster.EventOperator, Node: node, Message: fmt.Sprintf("node %s is forgotten", nodeName(&n)),
	}})
	return nil
}

// awaitNode waits, for a while, until a node is as it should be; is gets nil for one that is not in the list.
func (c *Controller) awaitNode(ctx context.Context, limit time.Duration, id cluster.NodeID, is func(*cluster.Node) bool) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		news := c.registry.news()
		n, ok := c.registry.find(id)
		if (ok && is(&n)) || (!ok && is(nil)) {
			return
		}
		select {
		case <-news:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (c *Controller) serveDrain(ctx context.Context, _ string, decode func(any) error) (any, error) {
	var body api.DrainRequest
	if err := decode(&body); err != nil {
		return nil, err
	}
	return nil, c.Drain(ctx, body.Node, body.On)
}

func (c *Controller) serveForget(ctx context.Context, _ string, decode func(any) error) (any, error) {
	var body api.ForgetRequest
	if err := decode(&body); err != nil {
		return nil, err
	}
	return nil, c.Forget(ctx, body.Node)
}
