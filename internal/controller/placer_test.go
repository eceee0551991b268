package controller

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/sched"
)

// macs makes ready nodes with model m in memory and slots places for it.
func macs(slots int, ids ...string) *cluster.Snapshot {
	s := &cluster.Snapshot{}
	for _, id := range ids {
		n := mac(id)
		n.State = cluster.NodeReady
		n.Models = []cluster.Model{{Name: "m", Digest: "d"}, {Name: "n", Digest: "e"}}
		n.Replicas = []cluster.Replica{
			{Model: "m", Digest: "d", State: cluster.ReplicaReady, Slots: slots},
			{Model: "n", Digest: "e", State: cluster.ReplicaReady, Slots: slots},
		}
		s.Nodes = append(s.Nodes, n)
	}
	return s
}

func ticketFor(model string) *ticket { return &ticket{req: &cluster.Request{Model: model}} }

func nothing() {}

// claimed waits for a claim in the background.
type claimed struct {
	placement cluster.Placement
	err       error
	done      bool
}

func inBackground(p *placer, ctx context.Context, t *ticket, wg *sync.WaitGroup) *claimed { //nolint:revive // reads better
	c := &claimed{}
	wg.Go(func() {
		c.placement, c.err = p.claim(ctx, t, nothing)
		c.done = true
	})
	synctest.Wait()
	return c
}

func TestPlacerIsFirstInFirstOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := macs(1, "a")
		p := newPlacer(func() *cluster.Snapshot { return s }, 100)
		held, err := p.claim(t.Context(), ticketFor("m"), nothing)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var order []*claimed
		for range 5 {
			order = append(order, inBackground(p, t.Context(), ticketFor("m"), &wg))
		}
		// Another model is not behind them.
		if other, err := p.claim(t.Context(), ticketFor("n"), nothing); err != nil || other.Model.Name != "n" {
			t.Errorf("the other model got %+v, %v", other, err)
		}
		for i, c := range order {
			if c.done {
				t.Fatalf("request %d was placed on a full node", i)
			}
			p.release(held, false)
			<-p.stir
			p.pump()
			synctest.Wait()
			if !c.done || c.err != nil {
				t.Fatalf("request %d was not the next: %+v", i, c)
			}
			held = c.placement
		}
		wg.Wait()
	})
}

func TestPlacerNewcomersDoNotOvertake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := macs(1, "a")
		p := newPlacer(func() *cluster.Snapshot { return s }, 100)
		held, _ := p.claim(t.Context(), ticketFor("m"), nothing)
		var wg sync.WaitGroup
		first := inBackground(p, t.Context(), ticketFor("m"), &wg)
		p.release(held, false) // free, but the first in line was not placed yet
		second := inBackground(p, t.Context(), ticketFor("m"), &wg)
		if second.done {
			t.Fatal("the newcomer was placed before the one that waited")
		}
		p.pump()
		synctest.Wait()
		if !first.done || second.done {
			t.Fatalf("first %+v, second %+v", first, second)
		}
		p.release(first.placement, false)
		p.pump()
		wg.Wait()
	})
}

func TestPlacerNewcomersOfAnotherLineDoNotOvertake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := macs(1, "a")
		p := newPlacer(func() *cluster.Snapshot { return s }, 100)
		held, _ := p.claim(t.Context(), ticketFor("m"), nothing)
		var wg sync.WaitGroup
		first := inBackground(p, t.Context(), ticketFor("m"), &wg)
		p.release(held, false) // free, and nobody was placed yet
		pinned := inBackground(p, t.Context(), &ticket{req: &cluster.Request{Model: "m", Node: "a"}}, &wg)
		if !first.done || pinned.done {
			t.Fatalf("who waited is placed: %t, who came later: %t", first.done, pinned.done)
		}
		p.release(first.placement, false)
		p.pump()
		wg.Wait()
	})
}

func TestPlacerKeepsThePlaceOfWhoWasRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := macs(1, "a")
		p := newPlacer(func() *cluster.Snapshot { return s }, 100)
		early := ticketFor("m")
		placement, _ := p.claim(t.Context(), early, nothing)
		var wg sync.WaitGroup
		late := inBackground(p, t.Context(), ticketFor("m"), &wg)
		if left := p.release(placement, true); left != 0 {
			t.Errorf("the node still has %d of ours, want 0", left)
		}
		again := inBackground(p, t.Context(), early, &wg)
		p.pump()
		synctest.Wait()
		if again.done || late.done {
			t.Fatal("placed on a node that said that it is busy")
		}
		p.heard("a")
		<-p.stir
		p.pump()
		synctest.Wait()
		if !again.done || late.done {
			t.Fatalf("the one refused is placed: %t, the one behind it: %t", again.done, late.done)
		}
		p.release(again.placement, false)
		p.pump()
		wg.Wait()
	})
}

func TestPlacerLearnsFromBusyNodes(t *testing.T) {
	t.Parallel()
	s := macs(8, "a")
	p := newPlacer(func() *cluster.Snapshot { return s }, 0) // nobody may wait
	var held []cluster.Placement
	for range 3 {
		placement, err := p.claim(t.Context(), ticketFor("m"), nothing)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, placement)
	}
	p.release(held[2], true) // it has two and is full
	if _, err := p.claim(t.Context(), ticketFor("m"), nothing); cluster.CodeOf(err) != cluster.CodeBusy {
		t.Fatalf("got %v, want busy", err)
	}
	p.release(held[1], false)
	if _, err := p.claim(t.Context(), ticketFor("m"), nothing); err != nil {
		t.Fatalf("one of two has ended: %v", err)
	}
	if _, err := p.claim(t.Context(), ticketFor("m"), nothing); cluster.CodeOf(err) != cluster.CodeBusy {
		t.Fatalf("got %v, want busy", err)
	}
	p.heard("a")
	if _, err := p.claim(t.Context(), ticketFor("m"), nothing); err != nil {
		t.Fatalf("after a heartbeat: %v", err)
	}
}

func TestPlacerQueueIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := macs(1, "a")
		p := newPlacer(func() *cluster.Snapshot { return s }, 2)
		held, err := p.claim(t.Context(), ticketFor("m"), nothing)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		first := inBackground(p, ctx, ticketFor("m"), &wg)
		second := inBackground(p, t.Context(), ticketFor("m"), &wg)
		_, err = p.claim(t.Context(), ticketFor("m"), nothing)
		if e := cluster.AsError(err); e.Code != cluster.CodeBusy || e.Message != "the queue is full: 2 requests are waiting" {
			t.Errorf("third in a queue of two: %v", err)
		}
		cancel() // one leaves
		synctest.Wait()
		if cluster.CodeOf(first.err) != cluster.CodeCancelled {
			t.Errorf("who left got %v", first.err)
		}
		ctx, end := context.WithCancelCause(t.Context())
		third := inBackground(p, ctx, ticketFor("m"), &wg)
		if second.done || third.done {
			t.Errorf("not queued: second %+v, third %+v", second, third)
		}
		end(cluster.Errorf(cluster.CodeUnreachable, "closing"))
		synctest.Wait()
		if !third.done || cluster.CodeOf(third.err) != cluster.CodeUnreachable {
			t.Errorf("whose context ended got %v, not its cause", third.err)
		}
		p.release(held, false)
		p.pump()
		wg.Wait()
		if second.err != nil {
			t.Errorf("who stayed got %v", second.err)
		}
	})
}

func TestPlacerTriesFailedNodesOnlyWhenThereIsNoOther(t *testing.T) {
	t.Parallel()
	failed := []cluster.Refusal{{Node: "a", Code: cluster.CodeNodeLost, Reason: "lost"}}
	s := macs(1, "a", "b")
	p := newPlacer(func() *cluster.Snapshot { return s }, 0)
	mark := func() *ticket { tk := ticketFor("m"); tk.avoided = failed; return tk }
	got, err := p.claim(t.Context(), mark(), nothing)
	if err != nil || got.Node != "b" {
		t.Fatalf("placed on %q, %v, want b", got.Node, err)
	}
	if got, err := p.claim(t.Context(), mark(), nothing); cluster.CodeOf(err) != cluster.CodeBusy {
		t.Fatalf("placed on %q, %v; want to wait for b", got.Node, err)
	}
	s = macs(1, "a")
	if got, err := p.claim(t.Context(), mark(), nothing); err != nil || got.Node != "a" {
		t.Fatalf("placed on %q, %v, want a: there is no other", got.Node, err)
	}
	barred := ticketFor("m")
	barred.barred = failed
	if _, err := p.claim(t.Context(), barred, nothing); cluster.CodeOf(err) != cluster.CodeNodeLost {
		t.Fatalf("with the only node barred: %v", err)
	}
}

func TestPlacerNeverGivesOutMoreThanThereIs(t *testing.T) {
	t.Parallel()
	const slots, callers, rounds = 3, 64, 50
	s := macs(slots, "a", "b")
	p := newPlacer(func() *cluster.Snapshot { return s }, 4096)
	stop := make(chan struct{})
	var pump sync.WaitGroup
	pump.Go(func() {
		for {
			select {
			case <-p.stir:
				p.pump()
			case <-stop:
				return
			}
		}
	})
	var mu sync.Mutex
	running, most := map[string]int{}, map[string]int{}
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for range rounds {
				model := []string{"m", "n"}[i%2]
				placement, err := p.claim(t.Context(), ticketFor(model), nothing)
				if err != nil {
					t.Errorf("claim: %v", err)
					return
				}
				key := fmt.Sprint(placement.Node, model)
				mu.Lock()
				running[key]++
				most[key] = max(most[key], running[key])
				mu.Unlock()
				mu.Lock()
				running[key]--
				mu.Unlock()
				p.release(placement, false)
			}
		})
	}
	wg.Wait()
	close(stop)
	pump.Wait()
	for key, n := range most {
		if n > slots {
			t.Errorf("%s had %d at once, of %d", key, n, slots)
		}
	}
	if len(p.work) != 0 {
		t.Errorf("at the end work is %+v", p.work)
	}
	if p.waiting != 0 || len(p.lines) != 0 {
		t.Errorf("at the end %d wait in %d lines", p.waiting, len(p.lines))
	}
}

func BenchmarkPlacerPumpManyLines(b *testing.B) {
	s := macs(1, "a")
	p := newPlacer(func() *cluster.Snapshot { return s }, 5000)
	p.work["a"] = sched.Work{Total: 1, Models: map[string]int{"m": 1}}
	for i := range 4096 {
		tk := ticketFor("m")
		p.seq++
		tk.seq, tk.ready = p.seq, make(chan struct{})
		p.enter(fmt.Sprint(i), tk)
	}
	for b.Loop() {
		p.pump()
	}
}
