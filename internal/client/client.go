// Package client is how a program other than the controller uses a cluster: over the bus, with credentials that allow
// that and nothing else.
package client

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller/api"
)

const (
	defaultTimeout = 10 * time.Second
	// acceptWait bounds the time until a controller takes up a stream.
	acceptWait = 5 * time.Second
	// defaultGap is how long a stream may give no sign of life; there is one a second.
	defaultGap = 10 * time.Second
	// watchWindow is small, so that a slow reader sees the newest state and not those of long ago.
	watchWindow = 2
)

// Options say how to reach the controller. Bus is required.
type Options struct {
	Bus bus.Options
	// Name is the client's own: what it is sent goes to subjects with that name, and its credentials are for it.
	Name string
	// Timeout bounds questions that have one short answer; zero means 10 s.
	Timeout time.Duration
}

// Client talks to one cluster. It is safe for concurrent use.
type Client struct {
	conn    *bus.Conn
	name    string
	timeout time.Duration
}

// Dial connects to a cluster. The error has CodeUnreachable when nobody is there, CodeUnauthorized when the
// credentials are not of this cluster.
func Dial(ctx context.Context, o Options) (*Client, error) {
	if o.Name == "" {
		return nil, cluster.Invalid("name", "is missing")
	}
	o.Bus.WaitForConnect = true
	o.Bus.InboxPrefix = bus.ClientInbox(o.Name)
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	conn, err := bus.Dial(ctx, o.Bus)
	if err != nil {
		return nil, err
	}
	return &Client{conn: conn, name: o.Name, timeout: o.Timeout}, nil
}

// Close ends the connection, and what runs over it.
func (c *Client) Close() error { return c.conn.Close() }

// Generate answers a request as the controller's Dispatch does: emit gets each chunk in order, the last has Finish set.
// Without that chunk, there is a *cluster.Error. When ctx ends or emit fails, generation stops.
func (c *Client) Generate(ctx context.Context, req *cluster.Request, emit func(cluster.Chunk) error) error {
	if err := req.Validate(); err != nil {
		return err
	}
	finished := false
	err := each(ctx, c, api.Generate, req, func(chunk *cluster.Chunk) error {
		finished = finished || chunk.Finish != ""
		return emit(*chunk)
	})
	if err == nil && !finished {
		return cluster.Errorf(cluster.CodeInternal, "the controller ended the answer without its last part")
	}
	return err
}

// Ask asks a model for something that is no answer.
func (c *Client) Ask(ctx context.Context, q *cluster.Aside) (*cluster.AsideReply, error) {
	if err := q.Validate(); err != nil {
		return nil, err
	}
	var out cluster.AsideReply
	err := each(ctx, c, api.Aside, q, func(piece *cluster.AsideReply) error {
		out.Add(piece)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// Snapshot returns the state of the cluster.
func (c *Client) Snapshot(ctx context.Context) (*cluster.Snapshot, error) {
	var s cluster.Snapshot
	if err := c.ask(ctx, api.Snapshot, struct{}{}, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// Watch follows the state of the cluster until Close of the Feed, or the end of ctx.
func (c *Client) Watch(ctx context.Context) (*Feed, error) {
	stream, err := c.open(ctx, api.Watch, struct{}{}, watchWindow)
	if err != nil {
		return nil, err
	}
	return &Feed{stream: stream}, nil
}

// Feed gives one state after another. One goroutine at a time may call Next; the others are safe at any time.
type Feed struct {
	stream  *bus.Stream
	dropped atomic.Int64
}

// Next returns the newest state, nil when it did not change, and what happened since the last call. A reader that is
// slow misses states, not events, unless it is more than 256 of those behind.
func (f *Feed) Next(ctx context.Context) (*cluster.Snapshot, []cluster.Event, error) {
	var u api.WatchUpdate
	if err := f.stream.Next(ctx, &u); err != nil {
		if errors.Is(err, io.EOF) {
			err = cluster.Errorf(cluster.CodeUnreachable, "the controller went away")
		}
		return nil, nil, typed(ctx, err)
	}
	f.dropped.Store(u.Dropped)
	return u.Snapshot, u.Events, nil
}

// Dropped counts the events that readers missed since the controller started, all readers together, as of the last Next.
func (f *Feed) Dropped() int64 { return f.dropped.Load() }

// Close ends the feed.
func (f *Feed) Close() {
	_ = f.stream.Close() // it gives no error
}

// Models lists the models on the disks of all nodes.
func (c *Client) Models(ctx context.Context) ([]cluster.Model, error) {
	var reply api.ModelsReply
	err := c.ask(ctx, api.Models, struct{}{}, &reply)
	return reply.Models, err
}

// Load brings a model into memory, on a node or where the scheduler wants it, and returns the node when it has
// answered there. progress may be nil.
func (c *Client) Load(ctx context.Context, req api.LoadRequest, progress func(cluster.Chunk) error) (cluster.NodeID, error) {
	node := req.Node
	err := each(ctx, c, api.Load, req, func(chunk *cluster.Chunk) error {
		if chunk.Node != "" {
			node = chunk.Node
		}
		if chunk.Progress == nil || progress == nil {
			return nil
		}
		return progress(*chunk)
	})
	return node, err
}

// Unload takes a model out of memory and returns the nodes that had it there.
func (c *Client) Unload(ctx context.Context, req api.UnloadRequest) ([]cluster.NodeID, error) {
	var reply api.UnloadReply
	err := c.ask(ctx, api.Unload, req, &reply)
	return reply.Nodes, err
}

// Drain has a node take nothing new, or again take what comes. It returns when that holds, not when what runs there is
// finished. The error has CodeNoNode for a node that nobody knows, CodeUnreachable for one that is down.
func (c *Client) Drain(ctx context.Context, node cluster.NodeID, on bool) error {
	return c.ask(ctx, api.Drain, api.DrainRequest{Node: node, On: on}, nil)
}

// Forget takes a node that is down out of the list. The error has CodeConflict for one that is not down, and CodeNoNode
// for one that is not in the list. A node of the roster comes back there: remove it from that first.
func (c *Client) Forget(ctx context.Context, node cluster.NodeID) error {
	return c.ask(ctx, api.Forget, api.ForgetRequest{Node: node}, nil)
}

// Logs calls line for lines of a log; with Follow until ctx ends.
func (c *Client) Logs(ctx context.Context, q api.LogsRequest, line func(bus.LogLine) error) error {
	return each(ctx, c, api.Logs, q, func(l *bus.LogLine) error { return line(*l) })
}

// Info says which controller this is.
func (c *Client) Info(ctx context.Context) (api.InfoReply, error) {
	var reply api.InfoReply
	err := c.ask(ctx, api.Info, struct{}{}, &reply)
	return reply, err
}

// ask asks a question that has one answer.
func (c *Client) ask(ctx context.Context, verb string, in, out any) error {
	limit := c.timeout
	if verb == api.Unload {
		limit += 30 * time.Second // the worker may take its time
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit,
		cluster.Errorf(cluster.CodeTimeout, "the controller did not answer within %s", limit))
	defer cancel()
	return typed(ctx, c.conn.Request(ctx, bus.APISubject(verb), in, out))
}

// open opens a stream with the controller.
func (c *Client) open(ctx context.Context, verb string, body any, window int) (*bus.Stream, error) {
	id := rand.Text()
	accept, stop := context.WithTimeoutCause(ctx, acceptWait,
		cluster.Errorf(cluster.CodeTimeout, "the controller did not take the request within %s", acceptWait))
	defer stop()
	stream, err := c.conn.OpenStream(accept, bus.StreamCall{
		Subject: bus.APISubject(verb), Reply: bus.ClientSubject(c.name, id), Control: bus.APIControl(), ID: id,
		Gap: defaultGap, Window: window, Body: body,
	})
	if err != nil {
		return nil, typed(accept, err)
	}
	return stream, nil
}

// each opens a stream and calls take with each of its messages.
func each[T any](ctx context.Context, c *Client, verb string, body any, take func(*T) error) error {
	stream, err := c.open(ctx, verb, body, 0)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }() // it gives no error
	for {
		var next T
		err := stream.Next(ctx, &next)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			stream.Cancel()
			return typed(ctx, err)
		}
		if err := take(&next); err != nil {
			stream.Cancel()
			return err
		}
	}
}

// typed makes a *cluster.Error of err: why ctx ended, if it did. A stream whose other side is lost, and that side is no
// node, has lost the controller.
func typed(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	e := cluster.AsError(err)
	switch {
	case e.Code == cluster.CodeNodeLost && e.Node == "":
		return cluster.Errorf(cluster.CodeUnreachable, "the controller went away: %s", e.Message).WithHint("try again in a moment")
	case e.Code == cluster.CodeCancelled && e.Message == context.Canceled.Error():
		return cluster.Errorf(cluster.CodeCancelled, "it was cancelled")
	}
	return e
}
