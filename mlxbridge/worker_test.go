package mlxbridge_test

import (
	"context"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

func launch(t *testing.T, l mlxbridge.Launcher, spec mlxbridge.LaunchSpec) mlxbridge.Engine {
	t.Helper()
	engine, err := l.Launch(t.Context(), spec)
	if err != nil {
		t.Fatalf("launch: %v (%s)", err, cluster.AsError(err).Hint)
	}
	t.Cleanup(func() {
		if err := engine.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("close: %v", err)
		}
		mustBeGone(t, engine.Info().PID)
	})
	return engine
}

func count(ctx context.Context, tb testing.TB, engine mlxbridge.Engine, n int, watch func(cluster.Chunk)) enginetest.Answer {
	tb.Helper()
	return enginetest.Collect(tb, func(emit func(cluster.Chunk)) error {
		return engine.Generate(ctx, enginetest.Count("model", n), func(c cluster.Chunk) {
			emit(c)
			if watch != nil {
				watch(c)
			}
		})
	})
}

func mustCount(tb testing.TB, engine mlxbridge.Engine, n int) {
	tb.Helper()
	if a := count(tb.Context(), tb, engine, n, nil); a.Err != nil || a.Text != enginetest.Counted(1, n) {
		tb.Errorf("counting to %d: %q, %v", n, a.Text, a.Err)
	}
}

func TestWorkerKeepsThePromises(t *testing.T) {
	t.Parallel()
	enginetest.Conformance(t, enginetest.RealLauncher(t), enginetest.Tiny(t))
}

func TestWorkerCountsWholeAndExact(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		spec             mlxbridge.LaunchSpec
		most, rows, each int
	}{
		{enginetest.Tiny(t), 300, 32, 40},
		{enginetest.Small(t), 100, 8, 15},
	} {
		t.Run(c.spec.Model.Name, func(t *testing.T) {
			t.Parallel()
			engine := launch(t, enginetest.RealLauncher(t), c.spec)
			info := engine.Info()
			if !isRunning(t, info.PID) || info.Context != 8192 || info.MaxRows != 32 || info.WeightBytes < 1e6 || info.Warmup <= 0 {
				t.Errorf("%+v", info)
			}
			if info.Versions["mlx"] == "" || info.Versions["blas"] == "" {
				t.Errorf("it does not say what it runs on: %v", info.Versions)
			}
			mustCount(t, engine, c.most)
			var asking sync.WaitGroup
			for i := range c.rows {
				asking.Go(func() { mustCount(t, engine, c.each+i) })
			}
			asking.Wait()
		})
	}
}

func TestWorkerCancelStopsWithinAStep(t *testing.T) {
	t.Parallel()
	spec := enginetest.Tiny(t)
	spec.MaxRows = 4
	engine := launch(t, enginetest.RealLauncher(t), spec)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a := count(ctx, t, engine, 300, func(c cluster.Chunk) {
		if len(c.Tokens) > 0 {
			cancel()
		}
	})
	mustCode(t, a.Err, cluster.CodeCancelled)
	waitFor(t, "the row is gone", func() bool { return engine.Stats().Counters.Cancelled == 1 && engine.Stats().Running == 0 })
	steps := engine.Stats().Counters.Steps
	before := engine.Stats().At
	waitFor(t, "a newer account", func() bool { return engine.Stats().At.After(before) })
	if got := engine.Stats().Counters.Steps; got != steps {
		t.Errorf("%d steps were taken when nothing was to do", got-steps)
	}
}

func waitFor(tb testing.TB, what string, reached func() bool) {
	tb.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(time.Minute)
	defer end.Stop()
	for !reached() {
		select {
		case <-tick.C:
		case <-end.C:
			tb.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestPoolOnRealWorkers(t *testing.T) {
	t.Parallel()
	pool := mlxbridge.NewPool(mlxbridge.PoolOptions{Launcher: enginetest.RealLauncher(t), BudgetBytes: 2 << 30})
	t.Cleanup(func() { mustCode(t, pool.Close(context.WithoutCancel(t.Context())), "") })
	spec := enginetest.Tiny(t)
	ask := func(watch func(cluster.Chunk)) enginetest.Answer {
		return enginetest.Collect(t, func(emit func(cluster.Chunk)) error {
			return pool.Generate(t.Context(), spec.Model, spec.Dir, enginetest.Count("tiny", 300), func(c cluster.Chunk) {
				emit(c)
				watch(c)
			})
		})
	}
	var first int
	kill := sync.OnceFunc(func() {
		first = pool.Replicas()[0].WorkerPID
		if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	})
	a := ask(func(c cluster.Chunk) {
		if c.Text != "" {
			kill()
		}
	})
	mustCode(t, a.Err, cluster.CodeWorkerCrashed)
	if r := pool.Replicas()[0]; r.State != cluster.ReplicaFailed {
		t.Errorf("after the crash: %+v", r)
	}
	if a = ask(func(cluster.Chunk) {}); a.Err != nil || a.Text != enginetest.Counted(1, 300) {
		t.Errorf("the next request: %q, %v", a.Text, a.Err)
	}
	r := pool.Replicas()[0]
	if r.State != cluster.ReplicaReady || r.Restarts != 1 || r.WorkerPID == first || r.ResidentBytes < 1e6 {
		t.Errorf("after the restart: %+v", r)
	}
	mustCode(t, pool.Unload(t.Context(), "tiny", false), "")
	mustBeGone(t, first)
	mustBeGone(t, r.WorkerPID)
}
