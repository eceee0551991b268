package controller_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller"
	"github.com/mlxctl/mlxctl/internal/controller/api"
)

func TestControllerThatStartsAgainServesAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	s.node(t, "a", script{infer: first})
	s.node(t, "b", script{})
	c.ready(t, "a", "b")
	me := s.client(t, "me")
	broken := make(chan *answer, 1)
	go func() { broken <- asker(me.Generate).ask(t.Context(), ask("x", on("a"))) }()
	c.streaming(t, 1)
	if err := c.end(); err != nil {
		t.Fatal(err)
	}
	got := wait(t, "the request that was under way", broken)
	code(t, got.err, cluster.CodeUnreachable, "shutting down")
	if got.text != "first" {
		t.Errorf("it got %q", got.text)
	}
	code(t, me.Generate(t.Context(), ask("x"), func(cluster.Chunk) error { return nil }), cluster.CodeUnreachable, "controller")

	next := s.controller(t, func(o *controller.Options) { o.Settle = patience }) // the node says that it is there by then
	var wg sync.WaitGroup
	for range 8 { // before any node can have come back
		wg.Go(func() {
			if a := next.ask(t.Context(), ask("one two", on("b"))); a.err != nil || a.text != "one two" {
				t.Errorf("got %q, %v", a.text, a.err)
			}
		})
	}
	wg.Wait()
	if n := next.node(t, "a", "back", func(n cluster.Node) bool { return n.State == cluster.NodeReady }); len(n.Replicas) != 1 {
		t.Errorf("the node came back with %+v", n.Replicas)
	}
}

// A controller that finishes answers what it has over the bus to the end, and takes nothing new from there; feeds go on.
func TestFinishAnswersWhatItHas(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	let := make(chan struct{})
	s.node(t, "a", script{infer: func(ctx context.Context, _ *bus.InferRequest, w *bus.StreamWriter) error {
		if err := w.Send(cluster.Chunk{Text: "first", Tokens: []int{1}}); err != nil {
			return err
		}
		select {
		case <-let:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		return w.Send(cluster.Chunk{Text: " last", Tokens: []int{2}, Finish: cluster.FinishStop, Usage: &cluster.Usage{}})
	}})
	c.ready(t, "a")
	me := s.client(t, "me")
	feed, err := me.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	got := make(chan *answer, 1)
	go func() { got <- asker(me.Generate).ask(t.Context(), ask("x")) }()
	c.streaming(t, 1)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		c.Finish(context.Background())
	}()
	for { // until it is told to finish
		begun := errors.New("it began")
		err := me.Generate(t.Context(), ask("late"), func(cluster.Chunk) error { return begun })
		if cluster.CodeOf(err) == cluster.CodeUnreachable {
			break
		}
		if !errors.Is(err, begun) {
			t.Fatal(err)
		}
	}
	select {
	case <-finished:
		t.Error("it finished before its answer")
	default:
	}
	close(let)
	if a := wait(t, "the answer", got); a.err != nil || a.text != "first last" {
		t.Errorf("got %q, %v", a.text, a.err)
	}
	<-finished
	if _, _, err := feed.Next(t.Context()); err != nil {
		t.Errorf("the feed: %v", err)
	}
}

func TestRequestsThatComeWhileNodesComeBack(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, func(o *controller.Options) { o.Settle = time.Hour })
	// Who is there first has not what is wanted.
	s.node(t, "a", script{models: []cluster.Model{{Name: "other"}, {Name: "huge", WeightBytes: 1 << 40}}, budget: 1 << 30})
	c.ready(t, "a")
	early := c.background(t, ask("one two"))
	big := c.background(t, ask("three", of("huge")))
	loaded := make(chan error, 1)
	go func() {
		node, err := c.Load(t.Context(), "huge", "", false, nil)
		if node != "b" && err == nil {
			t.Errorf("loaded on %q", node)
		}
		loaded <- err
	}()
	unloaded := make(chan error, 1)
	go func() {
		_, err := c.Unload(t.Context(), "huge", "", false)
		unloaded <- err
	}()
	c.snapshot(t, "both wait", func(s *cluster.Snapshot) bool { return len(s.Requests) == 2 })
	s.node(t, "b", script{
		models:   []cluster.Model{tiny(), {Name: "huge", WeightBytes: 1 << 40}},
		replicas: []cluster.Replica{{Model: "huge", State: cluster.ReplicaReady}, {Model: "tiny", State: cluster.ReplicaReady}},
		load:     loader(make(chan bus.LoadRequest, 1), nil).load,
		unload:   func(*bus.UnloadRequest) error { return nil },
	})
	if a := wait(t, "the answer", early); a.err != nil || a.text != "one two" || a.node != "b" {
		t.Errorf("got %q of %q, %v", a.text, a.node, a.err)
	}
	if a := wait(t, "the answer of the huge one", big); a.err != nil || a.node != "b" {
		t.Errorf("got %q of %q, %v", a.text, a.node, a.err)
	}
	for _, ch := range []chan error{loaded, unloaded} {
		if err := wait(t, "load and unload", ch); err != nil {
			t.Error(err)
		}
	}
}

func TestControllerEndsThoughRequestsWait(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, func(o *controller.Options) { o.Settle = time.Hour })
	s.node(t, "a", script{slots: 1, infer: first})
	c.ready(t, "a")
	streams := c.background(t, ask("x"))
	c.streaming(t, 1)
	queued := c.background(t, ask("x"))
	settles := c.background(t, ask("x", of("unknown")))
	c.snapshot(t, "all are here", func(s *cluster.Snapshot) bool { return len(s.Requests) == 3 })
	if err := c.end(); err != nil {
		t.Fatal(err)
	}
	for _, ch := range []<-chan *answer{streams, queued, settles} {
		code(t, wait(t, "the error", ch).err, cluster.CodeUnreachable, "shutting down")
	}
}

func TestQuestionsWithOneAnswer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	s.node(t, "a", script{models: []cluster.Model{tiny(), {Name: "big", Digest: "1"}}})
	s.node(t, "b", script{models: []cluster.Model{tiny(), {Name: "big", Digest: "2"}}})
	c.ready(t, "a", "b")
	me := s.client(t, "me")
	models, err := me.Models(t.Context())
	if err != nil || len(models) != 3 || models[0].Name != "big" || models[1].Digest != "2" || models[2].Name != "tiny" {
		t.Errorf("models are %+v, %v", models, err)
	}
	info, err := me.Info(t.Context())
	if err != nil || info.Cluster != "attic" || info.Version != "1.2.3" || info.HTTP != "http://x" || info.StartedAt.IsZero() {
		t.Errorf("info is %+v, %v", info, err)
	}
	state, err := me.Snapshot(t.Context())
	if err != nil || len(state.Nodes) != 2 || state.Nodes[0].Name != "mac-a" {
		t.Errorf("state is %+v, %v", state, err)
	}
	err = me.Logs(t.Context(), api.LogsRequest{}, nil)
	code(t, err, cluster.CodeUnsupported, "no file")
	code(t, me.Logs(t.Context(), api.LogsRequest{Tail: -1}, nil), cluster.CodeInvalid, "tail")
	code(t, me.Logs(t.Context(), api.LogsRequest{Node: "z"}, nil), cluster.CodeNoNode, "z")
}
