package controller_test

import (
	"context"
	"slices"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/client"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller"
	"github.com/mlxctl/mlxctl/internal/controller/api"
)

// loader makes a node that says what it was told to load.
func loader(told chan<- bus.LoadRequest, fail error) script {
	return script{load: func(_ context.Context, q *bus.LoadRequest, w *bus.StreamWriter) error {
		told <- *q
		if err := w.Send(cluster.Chunk{Progress: &cluster.Progress{Phase: cluster.PhaseLoading}}); err != nil {
			return err
		}
		return fail
	}}
}

func loading(t *testing.T, c *client.Client, q api.LoadRequest) (cluster.NodeID, []cluster.Chunk, error) {
	t.Helper()
	var chunks []cluster.Chunk
	node, err := c.Load(t.Context(), q, func(k cluster.Chunk) error {
		chunks = append(chunks, k)
		return nil
	})
	return node, chunks, err
}

func TestLoad(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, func(o *controller.Options) { o.Settle = -1 })
	told := make(chan bus.LoadRequest, 8)
	s.node(t, "a", loader(told, nil))
	s.node(t, "b", loader(told, cluster.Errorf(cluster.CodeNoFit, "it does not fit")))
	quarantined := loader(told, nil)
	quarantined.models = []cluster.Model{{Name: "bad"}}
	quarantined.replicas = []cluster.Replica{{Model: "bad", State: cluster.ReplicaQuarantined}}
	s.node(t, "c", quarantined)
	c.ready(t, "a", "b", "c")
	me := s.client(t, "me")
	events := c.Events(t.Context())

	node, chunks, err := loading(t, me, api.LoadRequest{Model: "tiny", Pinned: true})
	if err != nil || node != "a" {
		t.Errorf("loaded on %q, %v", node, err)
	}
	if len(chunks) != 1 || chunks[0].Progress == nil || chunks[0].Progress.Phase != cluster.PhaseLoading || chunks[0].Node != "a" {
		t.Errorf("told %+v", chunks)
	}
	if got := wait(t, "the node is told", told); got != (bus.LoadRequest{Model: "tiny", Pinned: true}) {
		t.Errorf("the node was told %+v", got)
	}
	e := wait(t, "news of it", events)
	for e.Kind == cluster.EventNodeState { // on a slow machine, heartbeats may be late
		e = wait(t, "news of it", events)
	}
	if e.Kind != cluster.EventOperator || e.Node != "a" || e.Model != "tiny" {
		t.Errorf("event is %+v", e)
	}
	if node, _, err = loading(t, me, api.LoadRequest{Model: "bad"}); err != nil || node != "c" {
		t.Errorf("a quarantined model: loaded on %q, %v", node, err)
	}
	for name, bad := range map[string]struct {
		q    api.LoadRequest
		code cluster.Code
	}{
		"the node cannot": {api.LoadRequest{Model: "tiny", Node: "b"}, cluster.CodeNoFit},
		"no model":        {api.LoadRequest{}, cluster.CodeInvalid},
		"unknown model":   {api.LoadRequest{Model: "none"}, cluster.CodeNoModel},
		"unknown node":    {api.LoadRequest{Model: "tiny", Node: "z"}, cluster.CodeNoNode},
	} {
		_, _, err := loading(t, me, bad.q)
		if cluster.CodeOf(err) != bad.code {
			t.Errorf("%s: got %v (%s), want %s", name, err, cluster.CodeOf(err), bad.code)
		}
		if bad.code == cluster.CodeNoFit {
			names(t, err, "b")
		}
	}
}

func TestLoadEndsWithItsNodeAndItsClient(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	line := s.cable(t)
	begun, why := make(chan struct{}, 4), make(chan error, 4)
	s.node(t, "a", script{url: line.URL(), load: func(ctx context.Context, _ *bus.LoadRequest, _ *bus.StreamWriter) error {
		begun <- struct{}{}
		<-ctx.Done()
		why <- context.Cause(ctx)
		return context.Cause(ctx)
	}})
	c.ready(t, "a")
	load := func(ctx context.Context) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := c.Load(ctx, "tiny", "", false, nil)
			done <- err
		}()
		wait(t, "it loads", begun)
		return done
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := load(ctx)
	cancel()
	code(t, wait(t, "who asked leaves", done), cluster.CodeCancelled)
	code(t, wait(t, "the node hears of it", why), cluster.CodeCancelled)
	done = load(t.Context())
	line.Set(false)
	code(t, wait(t, "the node is lost", done), cluster.CodeNodeLost, "mac-a")
}

func TestUnload(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, func(o *controller.Options) { o.Settle = -1 })
	told := make(chan bus.UnloadRequest, 8)
	const folder = "/models/mine"
	free := script{
		unload: func(q *bus.UnloadRequest) error { told <- *q; return nil },
		replicas: []cluster.Replica{
			{Model: "tiny", State: cluster.ReplicaReady}, {Model: folder, State: cluster.ReplicaReady},
		},
	}
	s.node(t, "a", free)
	s.node(t, "b", free)
	s.node(t, "c", script{
		replicas: []cluster.Replica{{Model: "busy", State: cluster.ReplicaReady}},
		unload: func(*bus.UnloadRequest) error {
			return cluster.Errorf(cluster.CodeConflict, "model busy has 2 requests")
		},
	})
	s.node(t, "d", script{ // its heartbeat is older than what it did
		replicas: []cluster.Replica{{Model: "gone", State: cluster.ReplicaReady}},
		unload: func(*bus.UnloadRequest) error {
			return cluster.Errorf(cluster.CodeNoModel, "model gone is not loaded here")
		},
	})
	c.ready(t, "a", "b", "c", "d")
	me := s.client(t, "me")
	nodes, err := me.Unload(t.Context(), api.UnloadRequest{Model: "tiny", Force: true})
	if err != nil || !slices.Equal(nodes, []cluster.NodeID{"a", "b"}) {
		t.Errorf("unloaded on %q, %v", nodes, err)
	}
	for range 2 {
		if got := wait(t, "a node is told", told); got != (bus.UnloadRequest{Model: "tiny", Force: true}) {
			t.Errorf("a node was told %+v", got)
		}
	}
	if nodes, err = me.Unload(t.Context(), api.UnloadRequest{Model: folder + "/", Node: "b"}); err != nil || !slices.Equal(nodes, []cluster.NodeID{"b"}) {
		t.Errorf("a folder: unloaded on %q, %v", nodes, err)
	}
	for want, q := range map[string]api.UnloadRequest{
		"model gone is not in memory on any node":   {Model: "gone"},
		"model gone is not in memory on node mac-d": {Model: "gone", Node: "d"},
	} {
		_, err := me.Unload(t.Context(), q)
		if e := cluster.AsError(err); e == nil || e.Code != cluster.CodeNoModel || e.Message != want || e.Hint == "" {
			t.Errorf("%q: %v", want, err)
		}
	}
	for name, bad := range map[string]struct {
		q    api.UnloadRequest
		code cluster.Code
	}{
		"it is at work":        {api.UnloadRequest{Model: "busy"}, cluster.CodeConflict},
		"no model":             {api.UnloadRequest{}, cluster.CodeInvalid},
		"not in memory":        {api.UnloadRequest{Model: "none"}, cluster.CodeNoModel},
		"not in memory there":  {api.UnloadRequest{Model: "tiny", Node: "c"}, cluster.CodeNoModel},
		"there is no such one": {api.UnloadRequest{Model: "tiny", Node: "z"}, cluster.CodeNoNode},
	} {
		if _, err := me.Unload(t.Context(), bad.q); cluster.CodeOf(err) != bad.code {
			t.Errorf("%s: got %v (%s), want %s", name, err, cluster.CodeOf(err), bad.code)
		}
	}
}
