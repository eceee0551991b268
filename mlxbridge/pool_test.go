package mlxbridge_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

const gib = 1 << 30

// model is one that needs bytes at least, as the Pool plans it, and makes use of no more than an eighth beyond that.
func model(name string, bytes int64) cluster.Model {
	return cluster.Model{Name: name, Digest: "digest of " + name, WeightBytes: bytes - 3*gib/2, Context: 8192}
}

// bench is a Pool on fake engines inside a bubble of synctest.
type bench struct {
	*mlxbridge.Pool
	fake *enginetest.Launcher

	mu     sync.Mutex
	events []string
}

func newBench(t *testing.T, script enginetest.Script, o mlxbridge.PoolOptions) *bench {
	t.Helper()
	b := &bench{fake: enginetest.NewLauncher(script)}
	o.Launcher = b.fake
	o.OnEvent = func(e cluster.Event) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.events = append(b.events, e.Model+" "+e.Message)
	}
	b.Pool = mlxbridge.NewPool(o)
	t.Cleanup(func() {
		if err := b.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("close: %v", err)
		}
		if left := b.fake.Engines(); len(left) > 0 {
			t.Errorf("%d engines are left", len(left))
		}
	})
	return b
}

func (b *bench) ask(ctx context.Context, tb testing.TB, m cluster.Model, n int) enginetest.Answer {
	tb.Helper()
	return enginetest.Collect(tb, func(emit func(cluster.Chunk)) error {
		return b.Generate(ctx, m, "/models/"+m.Name, enginetest.Count(m.Name, n), emit)
	})
}

func (b *bench) mustAsk(tb testing.TB, m cluster.Model, n int) {
	tb.Helper()
	if a := b.ask(tb.Context(), tb, m, n); a.Err != nil || a.Text != enginetest.Counted(1, n) {
		tb.Errorf("model %s: %q, %v", m.Name, a.Text, a.Err)
	}
}

func (b *bench) mustLoad(tb testing.TB, m cluster.Model, pinned bool) {
	tb.Helper()
	if err := b.Load(tb.Context(), m, "/models/"+m.Name, pinned); err != nil {
		tb.Errorf("load %s: %v", m.Name, err)
	}
}

func (b *bench) replica(tb testing.TB, name string) cluster.Replica {
	tb.Helper()
	all := b.Replicas()
	i := slices.IndexFunc(all, func(r cluster.Replica) bool { return r.Model == name })
	if i < 0 {
		tb.Fatalf("no replica of %s in %+v", name, all)
	}
	return all[i]
}

func (b *bench) loaded() string {
	var names []string
	for _, r := range b.Replicas() {
		names = append(names, r.Model)
	}
	return strings.Join(names, " ")
}

func (b *bench) told() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.events)
}

func mustCode(tb testing.TB, err error, want cluster.Code) {
	tb.Helper()
	if got := cluster.CodeOf(err); got != want {
		tb.Errorf("got %q (%v), want %q", got, err, want)
	}
}

// pass lets virtual time pass.
func pass(d time.Duration) { <-time.After(d) }

func TestPoolLoadsOnceForAllWhoAsk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{LoadFor: 3500 * time.Millisecond}, mlxbridge.PoolOptions{})
		began := time.Now()
		var asking sync.WaitGroup
		for range 20 {
			asking.Go(func() {
				loading := 0
				a := enginetest.Collect(t, func(emit func(cluster.Chunk)) error {
					return b.Generate(t.Context(), model("m", gib), "", enginetest.Count("m", 3), func(c cluster.Chunk) {
						if c.Progress != nil && c.Progress.Phase == cluster.PhaseLoading {
							loading++
						}
						emit(c)
					})
				})
				if a.Err != nil || a.Text != "1, 2, 3" {
					t.Errorf("%q, %v", a.Text, a.Err)
				}
				if loading != 4 { // at 0, 1, 2 and 3 seconds
					t.Errorf("%d chunks say that the model is loading", loading)
				}
			})
		}
		synctest.Wait()
		if r := b.replica(t, "m"); r.State != cluster.ReplicaLoading || r.Waiting != 20 || r.Running != 0 {
			t.Errorf("while it loads: %+v", r)
		}
		asking.Wait()
		if got := time.Since(began); got != 3500*time.Millisecond || b.fake.Launches() != 1 {
			t.Errorf("%d launches in %s", b.fake.Launches(), got)
		}
	})
}

func TestPoolReplicaOfReadyModel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{TokensPerSecond: 10, LoadFor: time.Second}, mlxbridge.PoolOptions{Options: mlxbridge.ModelOptions{MaxRows: 2}})
		m := model("m", gib)
		b.mustLoad(t, m, true)
		loadedAt := time.Now()
		pass(time.Minute)
		r := b.replica(t, "m")
		if r.State != cluster.ReplicaReady || !r.Pinned || r.Slots != 2 || r.Context != 8192 || r.Digest != m.Digest {
			t.Errorf("%+v", r)
		}
		if r.LoadedAt == nil || !r.LoadedAt.Equal(loadedAt) || r.IdleSince == nil || !r.IdleSince.Equal(loadedAt) {
			t.Errorf("loaded at %v, idle since %v, want %v", r.LoadedAt, r.IdleSince, loadedAt)
		}
		var asking sync.WaitGroup
		for range 3 {
			asking.Go(func() { b.mustAsk(t, m, 30) })
		}
		pass(2500 * time.Millisecond)
		r = b.replica(t, "m")
		if r.Running != 2 || r.Waiting != 1 || r.IdleSince != nil {
			t.Errorf("while it answers: %+v", r)
		}
		if r.TokensPerSecond < 17 || r.TokensPerSecond > 21 {
			t.Errorf("two rows at 10 tokens a second make %v", r.TokensPerSecond)
		}
		asking.Wait()
		r = b.replica(t, "m")
		if r.Counters.Finished != 3 || r.Counters.GeneratedTokens != 90 || r.IdleSince == nil || !r.IdleSince.Equal(time.Now()) {
			t.Errorf("afterwards: %+v", r)
		}
		pass(2 * time.Second)
		if r = b.replica(t, "m"); r.TokensPerSecond != 0 {
			t.Errorf("idle, with %v tokens a second", r.TokensPerSecond)
		}
	})
}

func TestPoolEvictsTheLeastRecentlyUsed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{}, mlxbridge.PoolOptions{BudgetBytes: 13 * gib})
		for _, name := range []string{"a", "b", "c"} {
			b.mustAsk(t, model(name, 4*gib), 1)
			pass(time.Second)
		}
		b.mustAsk(t, model("a", 4*gib), 1) // b is now the one used longest ago
		pass(time.Second)
		b.mustAsk(t, model("d", 4*gib), 1)
		if got := b.loaded(); got != "a c d" {
			t.Errorf("loaded: %s", got)
		}
		if got := b.PlannedBytes(); got > 13*gib {
			t.Errorf("%d bytes are planned", got)
		}
		b.mustAsk(t, model("big", 8*gib), 1)
		if got := b.loaded(); got != "big d" {
			t.Errorf("loaded: %s", got)
		}
		if got := b.PlannedBytes(); got > 13*gib {
			t.Errorf("%d bytes are planned", got)
		}
	})
}

func TestPoolRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{TokensPerSecond: 1}, mlxbridge.PoolOptions{BudgetBytes: 10 * gib})
		err := b.ask(t.Context(), t, model("huge", 11*gib), 1).Err
		mustCode(t, err, cluster.CodeNoFit)
		if !strings.Contains(err.Error(), "11.0 GiB") || !strings.Contains(err.Error(), "10.0 GiB") {
			t.Errorf("the message has no numbers: %v", err)
		}
		mustCode(t, b.Load(t.Context(), model("huge", 11*gib), "", false), cluster.CodeNoFit)

		var asking sync.WaitGroup
		asking.Go(func() { b.mustAsk(t, model("busy", 6*gib), 60) })
		synctest.Wait()
		mustCode(t, b.ask(t.Context(), t, model("other", 6*gib), 1).Err, cluster.CodeBusy)
		mustCode(t, b.Load(t.Context(), model("other", 6*gib), "", true), cluster.CodeBusy)
		if got := b.loaded(); got != "busy" {
			t.Errorf("loaded: %s", got)
		}
		asking.Wait()
		b.mustLoad(t, model("other", 6*gib), true)
		if got := b.loaded(); got != "other" {
			t.Errorf("loaded: %s", got)
		}
		mustCode(t, b.ask(t.Context(), t, model("busy", 6*gib), 1).Err, cluster.CodeBusy) // pinned models stay
		b.mustLoad(t, model("other", 6*gib), false)
		b.mustAsk(t, model("busy", 6*gib), 1)
	})
}

func TestPoolNeverPromisesMoreThanItHas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const budget = 10 * gib
		b := newBench(t, enginetest.Script{TokensPerSecond: 50, LoadFor: 300 * time.Millisecond}, mlxbridge.PoolOptions{
			BudgetBytes: budget,
		})
		var asking sync.WaitGroup
		answered := make([]int, 8)
		for i := range answered {
			asking.Go(func() {
				m := model(fmt.Sprint("m", i), int64(2+i%3)*gib)
				for range 20 {
					a := b.ask(t.Context(), t, m, 5)
					if a.Err == nil {
						answered[i]++
					} else {
						mustCode(t, a.Err, cluster.CodeBusy)
					}
					if got := b.PlannedBytes(); got > budget {
						t.Errorf("%d bytes are planned", got)
					}
					pass(time.Duration(i*37%100) * time.Millisecond)
				}
			})
		}
		asking.Wait()
		sum := 0
		for _, n := range answered {
			sum += n
		}
		if sum < 8 {
			t.Errorf("of 160 requests %d were answered", sum)
		}
	})
}

func TestPoolBoundsWhoWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{TokensPerSecond: 1}, mlxbridge.PoolOptions{Options: mlxbridge.ModelOptions{MaxRows: 2}})
		m := model("m", gib)
		var asking sync.WaitGroup
		for range 10 { // two run, eight wait
			asking.Go(func() { b.mustAsk(t, m, 5) })
		}
		pass(time.Second)
		mustCode(t, b.ask(t.Context(), t, m, 5).Err, cluster.CodeBusy)
		if r := b.replica(t, "m"); r.Running != 2 || r.Waiting != 8 {
			t.Errorf("%+v", r)
		}
		asking.Wait()
		b.mustAsk(t, m, 5)
	})
}

func TestPoolForgetsWhatIsNoModel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{Refuse: cluster.Errorf(cluster.CodeBadModel, "config.json is missing")}, mlxbridge.PoolOptions{})
		mustCode(t, b.ask(t.Context(), t, model("m", gib), 1).Err, cluster.CodeBadModel)
		mustCode(t, b.Load(t.Context(), model("m", gib), "", true), cluster.CodeBadModel)
		if got := b.loaded(); got != "" || b.PlannedBytes() != 0 {
			t.Errorf("left: %s", got)
		}
		want := []string{"m loading", "m failed: config.json is missing", "m loading", "m failed: config.json is missing"}
		synctest.Wait() // they are told a moment later
		if got := b.told(); !slices.Equal(got, want) {
			t.Errorf("told %q", got)
		}
	})
}
