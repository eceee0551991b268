package tui

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// scripted is a Feed that does what it is told, one step a call, and then waits.
type scripted struct {
	steps []func() (*cluster.Snapshot, []cluster.Event, error)
	calls []time.Time
}

func (f *scripted) Next(ctx context.Context) (*cluster.Snapshot, []cluster.Event, error) {
	f.calls = append(f.calls, time.Now())
	if n := len(f.calls) - 1; n < len(f.steps) {
		return f.steps[n]()
	}
	<-ctx.Done()
	return nil, nil, ctx.Err()
}

func state(name string) func() (*cluster.Snapshot, []cluster.Event, error) {
	return func() (*cluster.Snapshot, []cluster.Event, error) {
		return &cluster.Snapshot{Cluster: name}, nil, nil
	}
}

func broken() (*cluster.Snapshot, []cluster.Event, error) {
	return nil, nil, errors.New("no controller")
}

func startPump(t *testing.T, f Feed) (*pump, context.Context) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p := newPump(f)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return p, ctx
}

func TestPumpKeepsTheNewestStateForASlowScreen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &scripted{}
		for i := range 1000 {
			f.steps = append(f.steps, state(strconv.Itoa(i)))
		}
		p, ctx := startPump(t, f)
		synctest.Wait()
		u, ok := p.take(ctx, 0)
		if !ok || u.snapshot == nil || u.snapshot.Cluster != "999" {
			t.Fatalf("take = %+v, %v, want the newest of 1000 states", u, ok)
		}
		if len(f.calls) != 1001 {
			t.Errorf("Next was called %d times, want 1001: the feed had to wait for the screen", len(f.calls))
		}
	})
}

func TestPumpBoundsEventsAndCountsTheLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &scripted{}
		for i := range 300 {
			f.steps = append(f.steps, func() (*cluster.Snapshot, []cluster.Event, error) {
				return nil, []cluster.Event{{Message: strconv.Itoa(i)}}, nil
			})
		}
		p, ctx := startPump(t, f)
		synctest.Wait()
		u, _ := p.take(ctx, 0)
		if len(u.events) != eventBacklog || u.dropped != 300-eventBacklog {
			t.Fatalf("%d events and %d dropped, want %d and %d", len(u.events), u.dropped, eventBacklog, 300-eventBacklog)
		}
		if first, last := u.events[0].Message, u.events[eventBacklog-1].Message; first != "44" || last != "299" {
			t.Errorf("events %s to %s, want 44 to 299", first, last)
		}
	})
}

func TestPumpTriesAgainWithGrowingPauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &scripted{steps: []func() (*cluster.Snapshot, []cluster.Event, error){
			state("before"), broken, broken, broken, broken, broken, state("after"), broken,
		}}
		p, ctx := startPump(t, f)
		start := time.Now()
		synctest.Wait()
		u, _ := p.take(ctx, 0)
		if u.err == nil || u.snapshot == nil || u.snapshot.Cluster != "before" {
			t.Fatalf("take = %+v, want the last state and the error", u)
		}
		for u.snapshot == nil || u.snapshot.Cluster != "after" {
			u, _ = p.take(ctx, 0)
		}
		want := []time.Duration{0, 0, 250, 750, 1750, 3750, 5750, 5750}
		for i, w := range want {
			if got := f.calls[i].Sub(start); got != w*time.Millisecond {
				t.Errorf("try %d after %v, want %v", i, got, w*time.Millisecond)
			}
		}
	})
}

func TestTakeKeepsItsDistance(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, ctx := startPump(t, &scripted{steps: []func() (*cluster.Snapshot, []cluster.Event, error){state("a")}})
		start := time.Now()
		if _, ok := p.take(ctx, focusedGap); !ok || time.Since(start) != focusedGap {
			t.Errorf("take came after %v, want %v", time.Since(start), focusedGap)
		}
	})
}
