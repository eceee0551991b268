package controller_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/controller"
)

func of(model string) func(*cluster.Request) { return func(q *cluster.Request) { q.Model = model } }

// knowing makes a node that has one folder, and counts the questions.
func knowing(folder string, questions *atomic.Int32) script {
	return script{resolve: func(name string) (cluster.Model, error) {
		questions.Add(1)
		if name == folder {
			return cluster.Model{Name: folder, Digest: "sha256:9"}, nil
		}
		return cluster.Model{}, cluster.Errorf(cluster.CodeNoModel, "no model %s here", name)
	}}
}

func TestModelThatNobodyListsIsAskedForOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, func(o *controller.Options) { o.Settle = -1 })
	var a, b atomic.Int32
	s.node(t, "a", knowing("", &a))
	s.node(t, "b", knowing("/models/mine", &b))
	c.ready(t, "a", "b")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			got := c.ask(t.Context(), ask("one two", of("/models/mine")))
			if got.err != nil || got.text != "one two" || got.node != "b" {
				t.Errorf("got %q of %q, %v", got.text, got.node, got.err)
			}
		})
	}
	wg.Wait()
	if b.Load() != 1 {
		t.Errorf("who has it was asked %d times, want once", b.Load())
	}
	if a.Load() != 1 {
		t.Errorf("who has it not was asked %d times, want once", a.Load())
	}
}

func TestUnknownModel(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, func(o *controller.Options) { o.Settle = -1 })
	var a atomic.Int32
	s.node(t, "a", knowing("", &a))
	c.ready(t, "a")
	began := time.Now()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			err := c.ask(t.Context(), ask("x", of("tiyn"))).err
			code(t, err, cluster.CodeNoModel, "tiyn")
			if e := cluster.AsError(err); e != nil && !strings.Contains(e.Hint, "tiny") {
				t.Errorf("hint %q does not name the model that was meant", e.Hint)
			}
		})
	}
	wg.Wait()
	// What nobody knows is asked for again after 2 s; on a slow machine, all this may take longer.
	if most := 1 + int32(time.Since(began)/(2*time.Second)); a.Load() < 1 || a.Load() > most {
		t.Errorf("the node was asked %d times, want %d at most", a.Load(), most)
	}
	code(t, c.ask(t.Context(), ask("x", of("tiny"), on("b"))).err, cluster.CodeNoNode, "b")
}

func TestNodeThatDoesNotSayHoldsUpNobodyForLong(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, func(o *controller.Options) { o.Settle = -1 })
	hold := make(chan struct{})
	s.node(t, "a", script{resolve: func(string) (cluster.Model, error) {
		<-hold
		return cluster.Model{}, context.Canceled
	}})
	t.Cleanup(func() { close(hold) }) // before the node ends
	c.ready(t, "a")
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { gone <- c.ask(ctx, ask("x", of("/models/mine"))).err }()
	c.snapshot(t, "it is asked", func(s *cluster.Snapshot) bool { return len(s.Requests) == 1 })
	cancel() // who asked first leaves
	code(t, wait(t, "the client leaves", gone), cluster.CodeCancelled)
	code(t, c.ask(t.Context(), ask("x", of("/models/mine"))).err, cluster.CodeTimeout, "mac-a", "did not say")
}

func TestManyNamesOfModelsDoNotFillTheMemory(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, func(o *controller.Options) { o.Settle = -1 })
	var a atomic.Int32
	s.node(t, "a", knowing("/models/mine", &a))
	c.ready(t, "a")
	const most = 1024
	for i := range most + 1 {
		name := fmt.Sprint("/models/", i)
		if i == 0 {
			name = "/models/mine"
		}
		_ = c.ask(t.Context(), ask("x", of(name))).err
	}
	before := a.Load()
	if got := c.ask(t.Context(), ask("one two", of("/models/mine"))); got.err != nil {
		t.Error(got.err)
	}
	if a.Load() != before+1 {
		t.Error("the oldest name is still known")
	}
}

func TestPinnedRequest(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, func(o *controller.Options) { o.Settle = -1 })
	s.node(t, "a", script{})
	s.node(t, "b", script{})
	s.node(t, "c", script{models: []cluster.Model{{Name: "other"}}})
	c.ready(t, "a", "b", "c")
	if got := c.ask(t.Context(), ask("one two", on("b"))); got.err != nil || got.node != "b" || got.text != "one two" {
		t.Errorf("got %q of %q, %v", got.text, got.node, got.err)
	}
	for node, want := range map[cluster.NodeID]cluster.Code{"z": cluster.CodeNoNode, "c": cluster.CodeNoModel} {
		code(t, c.ask(t.Context(), ask("x", on(node))).err, want, string(node))
	}
}

func TestWithoutNodes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, func(o *controller.Options) { o.Settle = -1 })
	code(t, c.ask(t.Context(), ask("x")).err, cluster.CodeNoNode, "no node has joined")
}
