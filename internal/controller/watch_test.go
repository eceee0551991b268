package controller_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
)

func TestWatchGivesTenStatesASecondAndTheLast(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	let := make(chan struct{})
	s.node(t, "a", script{infer: func(_ context.Context, _ *bus.InferRequest, w *bus.StreamWriter) error {
		for i := 0; ; i++ {
			select {
			case <-let:
				return w.Send(cluster.Chunk{Finish: cluster.FinishStop, Usage: &cluster.Usage{}})
			default:
			}
			if err := w.Send(cluster.Chunk{Text: "x", Tokens: []int{i}}); err != nil {
				return err
			}
		}
	}})
	c.ready(t, "a")
	feed, err := s.client(t, "me").Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	got := c.background(t, ask("x"))
	var states []*cluster.Snapshot
	released, seen := false, false
	for {
		state, _, err := feed.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if state == nil {
			continue
		}
		states = append(states, state)
		if len(state.Requests) == 1 && state.Requests[0].Node == "a" && state.Cluster == "attic" {
			seen = true
		}
		if len(states) >= 12 && seen && !released {
			released = true
			close(let)
		}
		if released && len(state.Requests) == 0 && state.Totals.Finished == 1 {
			break
		}
	}
	if a := wait(t, "the answer", got); a.err != nil {
		t.Error(a.err)
	}
	tokens := int64(0)
	for i, state := range states {
		if state.Totals.Tokens < tokens {
			t.Errorf("tokens went from %d to %d", tokens, state.Totals.Tokens)
		}
		tokens = state.Totals.Tokens
		if i == 0 {
			continue
		}
		if apart := state.At.Sub(states[i-1].At); apart < 99*time.Millisecond {
			t.Errorf("two states are %s apart", apart)
		}
	}
	if tokens == 0 {
		t.Error("no state has tokens")
	}
}

func TestSlowReaderOfWatchGetsTheNewest(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	watch := c.Watch(t.Context())
	wait(t, "the first state", watch)
	s.node(t, "a", script{})
	c.ready(t, "a") // nobody reads watch meanwhile
	latest := c.snapshot(t, "two states on", func(*cluster.Snapshot) bool { return true })
	for state := range watch {
		if len(state.Nodes) == 1 && state.Nodes[0].State == cluster.NodeReady {
			break
		}
		if !state.At.Before(latest.At) {
			t.Error("a state is newer than the others, and knows no node")
		}
	}
}

func TestWatchEndsWithItsReaderAndWithTheController(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	own, events := c.Watch(ctx), c.Events(ctx)
	cancel()
	for range own {
	}
	for range events {
	}
	feed, err := s.client(t, "me").Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	own, events = c.Watch(t.Context()), c.Events(t.Context())
	if err := c.end(); err != nil {
		t.Fatal(err)
	}
	for range own {
	}
	for range events {
	}
	for err == nil {
		_, _, err = feed.Next(t.Context())
	}
	code(t, err, cluster.CodeUnreachable)
	if _, open := <-c.Watch(t.Context()); open {
		t.Error("a controller that ended is watched")
	}
	code(t, c.ask(t.Context(), ask("x")).err, cluster.CodeUnreachable, "shutting down")
}

func TestEventsThatNobodyReadsAreCounted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	n := s.node(t, "a", script{})
	c.ready(t, "a")
	const count, kept = 300, 256
	slow := c.Events(t.Context())
	feed, err := s.client(t, "me").Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer feed.Close()
	for i := range count {
		e := cluster.Event{Kind: cluster.EventReplicaState, Node: "liar", Message: fmt.Sprint(i)}
		if err := n.conn.Publish(bus.EventSubject("a", bus.EventNews), e); err != nil {
			t.Fatal(err)
		}
	}
	for feed.Dropped() < count-kept {
		if _, _, err := feed.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.EventsDropped(); got < count-kept {
		t.Errorf("%d events are counted as dropped, want %d at the least", got, count-kept)
	}
	for i := range kept {
		e := wait(t, "an event that was kept", slow)
		if e.Node != "a" || e.Message != fmt.Sprint(i) {
			t.Fatalf("event %d is %+v", i, e)
		}
	}
}

func TestSnapshotsDoNotChange(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller(t, nil)
	s.node(t, "a", script{})
	c.ready(t, "a")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 10 {
				if a := c.ask(t.Context(), ask(numbers(50))); a.err != nil {
					t.Error(a.err)
				}
			}
		})
	}
	before := c.Snapshot()
	text, err := json.Marshal(before)
	if err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	c.over(t, 40)
	again, err := json.Marshal(before)
	if err != nil || string(again) != string(text) {
		t.Errorf("%s became %s, %v", text, again, err)
	}
}
