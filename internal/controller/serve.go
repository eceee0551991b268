package controller

import (
	"context"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller/api"
)

// Streams of one kind that clients may have open at once. What is above waits nowhere: it is told that it is busy.
const (
	mostGenerating = 8192
	mostAsides     = 1024
	mostWatching   = 256
	mostLoading    = 64
	mostLogs       = 64
)

// subscribe listens to nodes.
func (c *Controller) subscribe() ([]subscription, error) {
	var out []subscription
	for _, s := range []struct {
		subject string
		handle  func(subject string, decode func(any) error)
	}{
		{bus.HeartbeatAll(), c.onHeartbeat},
		{bus.EventAll(), c.onEvent},
	} {
		sub, err := c.o.Conn.Subscribe(s.subject, s.handle)
		if err != nil {
			closeAll(out)
			return nil, err
		}
		out = append(out, sub)
	}
	return out, nil
}

func (c *Controller) onHeartbeat(subject string, decode func(any) error) {
	node := bus.ParseHeartbeat(subject)
	if !c.heeds(node) {
		return
	}
	var h bus.Heartbeat
	if err := decode(&h); err != nil {
		c.unreadable(node, "heartbeat", err)
		return
	}
	if node != h.Node {
		c.unreadable(node, "heartbeat", cluster.Errorf(cluster.CodeInvalid, "it names node %q", h.Node))
		return
	}
	events, known := c.registry.heartbeat(c.now(), beat{
		node: h.Node, boot: h.Boot, load: h.Load, replicas: h.Replicas, plannedBytes: h.PlannedBytes, draining: h.Draining,
	})
	if !known {
		c.askHello()
		return
	}
	c.placer.heard(h.Node)
	c.tell(events)
}

// onEvent takes in what nodes tell unasked. The server has checked that a node speaks as itself: the subject counts,
// not what the body says.
func (c *Controller) onEvent(subject string, decode func(any) error) {
	node, kind, ok := bus.ParseEvent(subject)
	if !ok || !c.heeds(node) {
		return
	}
	switch kind {
	case bus.EventHello:
		var h bus.Hello
		if err := decode(&h); err != nil {
			c.unreadable(node, "hello", err)
			return
		}
		h.Node.ID = node
		c.tell(c.registry.hello(c.now(), h.Node, h.Boot, h.Key))
	case bus.EventNews:
		var e cluster.Event
		if err := decode(&e); err != nil {
			c.unreadable(node, "news", err)
			return
		}
		e.Node, e.At = node, c.now()
		c.events.publish(e)
	default: // of a newer agent
		c.o.Log.Debug("unknown kind of event", "subject", subject)
	}
}

// serve answers clients.
func (c *Controller) serve() ([]subscription, error) {
	var out []subscription
	for _, s := range []struct {
		verb   string
		limit  int
		handle bus.StreamHandler
		ends   bool // by itself
	}{
		{api.Generate, mostGenerating, c.serveGenerate, true},
		{api.Aside, mostAsides, c.serveAside, true},
		{api.Watch, mostWatching, c.serveWatch, false},
		{api.Load, mostLoading, c.serveLoad, true},
		{api.Logs, mostLogs, c.serveLogs, false},
	} {
		sub, err := c.o.Conn.ServeStreams(bus.APISubject(s.verb), bus.APIControl(), s.limit, s.handle)
		if err != nil {
			closeAll(out)
			return nil, err
		}
		out = append(out, sub)
		if s.ends {
			c.answers.add(sub)
		}
	}
	for _, s := range []struct {
		verb   string
		handle func(ctx context.Context, subject string, decode func(any) error) (any, error)
	}{
		{api.Snapshot, func(context.Context, string, func(any) error) (any, error) { return c.Snapshot(), nil }},
		{api.Models, func(context.Context, string, func(any) error) (any, error) {
			return api.ModelsReply{Models: c.Models()}, nil
		}},
		{api.Info, func(context.Context, string, func(any) error) (any, error) { return c.info(), nil }},
		{api.Unload, c.serveUnload},
		{api.Drain, c.serveDrain},
		{api.Forget, c.serveForget},
	} {
		sub, err := c.o.Conn.Handle(bus.APISubject(s.verb), s.handle)
		if err != nil {
			closeAll(out)
			return nil, err
		}
		out = append(out, sub)
	}
	return out, nil
}

func (c *Controller) info() api.InfoReply {
	base := c.viewer.base
	return api.InfoReply{
		Cluster: base.Cluster, Version: base.Controller.Version, StartedAt: base.Controller.StartedAt, HTTP: base.Controller.HTTP,
	}
}

func (c *Controller) serveGenerate(ctx context.Context, decode func(any) error, w *bus.StreamWriter) error {
	var req cluster.Request
	if err := decode(&req); err != nil {
		return err
	}
	return c.Dispatch(ctx, &req, func(chunk cluster.Chunk) error { return w.Send(chunk) })
}

func (c *Controller) serveAside(ctx context.Context, decode func(any) error, w *bus.StreamWriter) error {
	var q cluster.Aside
	if err := decode(&q); err != nil {
		return err
	}
	reply, err := c.Ask(ctx, &q)
	if err != nil {
		return err
	}
	for _, piece := range reply.Pieces() {
		if err := w.Send(piece); err != nil {
			return err
		}
	}
	return nil
}

func (c *Controller) serveWatch(ctx context.Context, _ func(any) error, w *bus.StreamWriter) error {
	snapshots, events := c.Watch(ctx), c.Events(ctx)
	for {
		var update api.WatchUpdate
		select {
		case s, open := <-snapshots:
			if !open {
				return whyEnded(ctx)
			}
			update.Snapshot = s
		case e, open := <-events:
			if !open {
				return whyEnded(ctx)
			}
			update.Events = drain(events, e)
		}
		update.Dropped = c.EventsDropped()
		if err := w.Send(update); err != nil {
			return err
		}
	}
}

// whyEnded is why a feed of the controller came to its end.
func whyEnded(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errShutdown()
}

// drain takes what else is there.
func drain(events <-chan cluster.Event, first cluster.Event) []cluster.Event {
	out := []cluster.Event{first}
	for {
		select {
		case e, open := <-events:
			if !open {
				return out
			}
			out = append(out, e)
		default:
			return out
		}
	}
}

func (c *Controller) serveLoad(ctx context.Context, decode func(any) error, w *bus.StreamWriter) error {
	var body api.LoadRequest
	if err := decode(&body); err != nil {
		return err
	}
	node, err := c.Load(ctx, body.Model, body.Node, body.Pinned, func(chunk cluster.Chunk) error { return w.Send(chunk) })
	if err != nil {
		return err
	}
	return w.Send(cluster.Chunk{Node: node})
}

func (c *Controller) serveUnload(ctx context.Context, _ string, decode func(any) error) (any, error) {
	var body api.UnloadRequest
	if err := decode(&body); err != nil {
		return nil, err
	}
	nodes, err := c.Unload(ctx, body.Model, body.Node, body.Force)
	if err != nil {
		return nil, err
	}
	return api.UnloadReply{Nodes: nodes}, nil
}
