package mlxbridge_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

func TestPoolUnload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{TokensPerSecond: 10, LoadFor: time.Second}, mlxbridge.PoolOptions{})
		m := model("m", gib)
		mustCode(t, b.Unload(t.Context(), "m", false), cluster.CodeNoModel)
		var asking sync.WaitGroup
		asking.Go(func() { mustCode(t, b.ask(t.Context(), t, m, 100).Err, cluster.CodeNodeLost) })
		pass(3 * time.Second)
		mustCode(t, b.Unload(t.Context(), "m", false), cluster.CodeConflict)
		mustCode(t, b.Unload(t.Context(), "m", true), "")
		asking.Wait()
		if got := b.loaded(); got != "" || len(b.fake.Engines()) > 0 {
			t.Errorf("left: %s", got)
		}
		want := []string{"m loading", "m ready", "m evicting: unloaded"}
		synctest.Wait() // they are told a moment later
		if got := b.told(); !slices.Equal(got, want) {
			t.Errorf("told %q", got)
		}

		asking.Go(func() { mustCode(t, b.ask(t.Context(), t, m, 1).Err, cluster.CodeNodeLost) }) // while it loads
		synctest.Wait()
		mustCode(t, b.Unload(t.Context(), "m", false), cluster.CodeConflict)
		mustCode(t, b.Unload(t.Context(), "m", true), "")
		asking.Wait()
		b.mustAsk(t, m, 1)
	})
}

func TestPoolUnloadsTheIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{TokensPerSecond: 10}, mlxbridge.PoolOptions{Options: mlxbridge.ModelOptions{IdleTTL: time.Minute}})
		b.mustLoad(t, model("pinned", gib), true)
		var asking sync.WaitGroup
		asking.Go(func() { b.mustAsk(t, model("busy", gib), 1000) })
		b.mustAsk(t, model("idle", gib), 1)
		pass(50 * time.Second)
		if got := b.loaded(); got != "busy idle pinned" {
			t.Errorf("loaded too early: %s", got)
		}
		pass(20 * time.Second)
		if got := b.loaded(); got != "busy pinned" {
			t.Errorf("loaded: %s", got)
		}
		asking.Wait()
	})
}

func TestPoolWaitsWithARequestForItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{LoadFor: time.Minute}, mlxbridge.PoolOptions{})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		mustCode(t, b.ask(ctx, t, model("m", gib), 1).Err, cluster.CodeTimeout)
		mustCode(t, b.ask(ctx, t, model("m", gib), 1).Err, cluster.CodeTimeout)
		b.mustAsk(t, model("m", gib), 1) // which finds the same load
		if b.fake.Launches() != 1 {
			t.Errorf("%d launches", b.fake.Launches())
		}
	})
}

func TestPoolTakesAModelThatChanged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{TokensPerSecond: 10}, mlxbridge.PoolOptions{})
		m := model("m", gib)
		var asking sync.WaitGroup
		asking.Go(func() { b.mustAsk(t, m, 20) })
		synctest.Wait()
		m.Digest = "another"
		mustCode(t, b.ask(t.Context(), t, m, 1).Err, cluster.CodeBusy)
		asking.Wait()
		b.mustAsk(t, m, 1)
		if r := b.replica(t, "m"); r.Digest != "another" || b.fake.Launches() != 2 || len(b.fake.Engines()) != 1 {
			t.Errorf("%+v after %d launches", r, b.fake.Launches())
		}
	})
}

func TestPoolClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{TokensPerSecond: 10}, mlxbridge.PoolOptions{})
		b.mustLoad(t, model("idle", gib), true)
		b.mustLoad(t, model("dead", gib), true)
		b.fake.Engines()[1].Crash()
		var asking sync.WaitGroup
		asking.Go(func() { mustCode(t, b.ask(t.Context(), t, model("busy", gib), 100).Err, cluster.CodeNodeLost) })
		synctest.Wait()
		b.fake.SetScript(enginetest.Script{LoadFor: time.Hour})
		asking.Go(func() { mustCode(t, b.ask(t.Context(), t, model("loading", gib), 1).Err, cluster.CodeNodeLost) })
		synctest.Wait()
		began := time.Now()
		mustCode(t, b.Close(t.Context()), "")
		asking.Wait()
		if got := time.Since(began); got != 0 || len(b.fake.Engines()) > 0 || b.loaded() != "" {
			t.Errorf("after %s are left: %q", got, b.loaded())
		}
		mustCode(t, b.ask(t.Context(), t, model("idle", gib), 1).Err, cluster.CodeNodeLost)
		mustCode(t, b.Load(t.Context(), model("idle", gib), "", false), cluster.CodeNodeLost)
	})
}

func TestPoolMayBeCalledFromAnEvent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var pool *mlxbridge.Pool
		var seen []cluster.ReplicaState
		pool = mlxbridge.NewPool(mlxbridge.PoolOptions{
			Launcher: enginetest.NewLauncher(enginetest.Script{}),
			OnEvent: func(cluster.Event) {
				for _, r := range pool.Replicas() {
					seen = append(seen, r.State)
				}
			},
		})
		mustCode(t, pool.Load(t.Context(), model("m", gib), "", false), "")
		mustCode(t, pool.Close(t.Context()), "")
		if len(seen) == 0 {
			t.Error("no replica was seen")
		}
	})
}

func TestPoolTenThousandInstantReplies(t *testing.T) {
	t.Parallel()
	b := newBench(t, enginetest.Script{}, mlxbridge.PoolOptions{})
	m := model("m", gib)
	b.mustLoad(t, m, false)
	var asking sync.WaitGroup
	for range 100 {
		asking.Go(func() {
			for range 100 {
				b.mustAsk(t, m, 1)
			}
		})
	}
	asking.Wait()
	if got := b.replica(t, "m").Counters.Finished; got != 10_000 {
		t.Errorf("%d answers are counted", got)
	}
}
