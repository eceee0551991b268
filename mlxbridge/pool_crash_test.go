package mlxbridge_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

func TestPoolRestartsWhatDies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{TokensPerSecond: 10}, mlxbridge.PoolOptions{})
		m := model("m", gib)
		var asking sync.WaitGroup
		for range 3 {
			asking.Go(func() {
				a := b.ask(t.Context(), t, m, 100)
				mustCode(t, a.Err, cluster.CodeWorkerCrashed)
				if !strings.HasPrefix(enginetest.Counted(1, 100), a.Text) || a.Text == "" {
					t.Errorf("got %q", a.Text)
				}
			})
		}
		pass(time.Second)
		b.fake.Engines()[0].Crash()
		asking.Wait()
		r := b.replica(t, "m")
		if r.State != cluster.ReplicaFailed || !strings.Contains(r.Reason, "killed by signal 9") || r.Restarts != 0 {
			t.Errorf("after the crash: %+v", r)
		}
		pass(time.Minute)
		if b.fake.Launches() != 1 {
			t.Error("nobody asks, and it was restarted")
		}
		b.mustAsk(t, m, 3)
		if r = b.replica(t, "m"); r.State != cluster.ReplicaReady || r.Restarts != 1 || r.Reason != "" {
			t.Errorf("after the restart: %+v", r)
		}
	})
}

func TestPoolRestartsPinnedByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{}, mlxbridge.PoolOptions{BudgetBytes: 10 * gib})
		m := model("m", 6*gib)
		b.mustLoad(t, m, true)
		wait := 500 * time.Millisecond
		for n := 1; n < 5; n++ {
			b.fake.Engines()[0].Crash()
			synctest.Wait()
			if r := b.replica(t, "m"); r.State != cluster.ReplicaFailed || b.PlannedBytes() < 6*gib {
				t.Errorf("after crash %d: %+v", n, r)
			}
			mustCode(t, b.Load(t.Context(), model("other", 6*gib), "", false), cluster.CodeBusy) // it keeps its place
			pass(wait - time.Millisecond)
			if got := b.fake.Launches(); got != n {
				t.Errorf("%d launches too early after crash %d", got, n)
			}
			pass(time.Millisecond)
			synctest.Wait()
			if r := b.replica(t, "m"); r.State != cluster.ReplicaReady || r.Restarts != n {
				t.Errorf("%s after crash %d: %+v", wait, n, r)
			}
			wait *= 2
		}
		b.fake.Engines()[0].Crash()
		synctest.Wait()
		r := b.replica(t, "m")
		if r.State != cluster.ReplicaQuarantined || !strings.Contains(r.Reason, "died 5 times") || b.PlannedBytes() != 0 {
			t.Errorf("after the fifth crash: %+v", r)
		}
		mustCode(t, b.ask(t.Context(), t, m, 1).Err, cluster.CodeQuarantined)
		pass(time.Minute)
		mustCode(t, b.ask(t.Context(), t, m, 1).Err, cluster.CodeQuarantined)
		b.mustLoad(t, m, true)
		b.mustAsk(t, m, 3)
		b.fake.Engines()[0].Crash() // the earlier ones are forgotten
		pass(500 * time.Millisecond)
		b.mustAsk(t, m, 3)
	})
}

func TestPoolForgetsCrashesOfLongAgo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{}, mlxbridge.PoolOptions{})
		m := model("m", gib)
		for range 20 {
			b.mustAsk(t, m, 1)
			b.fake.Engines()[0].Crash()
			pass(2 * time.Minute)
		}
		if r := b.replica(t, "m"); r.State != cluster.ReplicaFailed || r.Restarts != 19 {
			t.Errorf("%+v", r)
		}
	})
}

func TestPoolQuarantinesWhatDiesWhileLoading(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		died := cluster.Errorf(cluster.CodeWorkerCrashed, "worker of m ran out of memory").WithHint("its log ends with: malloc")
		b := newBench(t, enginetest.Script{Refuse: died}, mlxbridge.PoolOptions{})
		m := model("m", gib)
		began := time.Now()
		for range 5 {
			mustCode(t, b.ask(t.Context(), t, m, 1).Err, cluster.CodeWorkerCrashed)
		}
		if got := time.Since(began); got != 7500*time.Millisecond { // 0.5 + 1 + 2 + 4
			t.Errorf("five tries took %s", got)
		}
		err := b.ask(t.Context(), t, m, 1).Err
		mustCode(t, err, cluster.CodeQuarantined)
		if !strings.Contains(err.Error(), "malloc") {
			t.Errorf("the log's last line is missing: %v", err)
		}
		b.fake.SetScript(enginetest.Script{})
		b.mustLoad(t, m, false)
		b.mustAsk(t, m, 1)
	})
}

func TestPoolOperatorDoesNotWaitForARestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{}, mlxbridge.PoolOptions{})
		m := model("m", gib)
		b.mustLoad(t, m, true)
		for range 3 {
			b.fake.Engines()[0].Crash()
			synctest.Wait()
			began := time.Now()
			b.mustLoad(t, m, true)
			if got := time.Since(began); got != 0 {
				t.Errorf("loading waited %s", got)
			}
		}
	})
}

func TestPoolRemembersCrashesOfWhatFindsNoRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, enginetest.Script{}, mlxbridge.PoolOptions{BudgetBytes: 10 * gib})
		m, other := model("m", 6*gib), model("other", 6*gib)
		for range 5 {
			b.mustAsk(t, m, 1)
			b.fake.Engines()[0].Crash()
			synctest.Wait()
			b.mustLoad(t, other, true) // takes the place that m left
			if r := b.replica(t, "m"); r.State != cluster.ReplicaQuarantined {
				mustCode(t, b.ask(t.Context(), t, m, 1).Err, cluster.CodeBusy)
			}
			mustCode(t, b.Unload(t.Context(), "other", false), "")
		}
		mustCode(t, b.ask(t.Context(), t, m, 1).Err, cluster.CodeQuarantined)
	})
}

// lateEngine is one whose requests hear of the crash before the engine is done, as with a process that is to be reaped.
type lateEngine struct {
	mlxbridge.Engine
	done chan struct{}
}

func (e *lateEngine) Done() <-chan struct{} { return e.done }

func (e *lateEngine) Generate(ctx context.Context, req *cluster.Request, emit func(cluster.Chunk)) error {
	err := e.Engine.Generate(ctx, req, emit)
	if cluster.CodeOf(err) == cluster.CodeWorkerCrashed {
		time.AfterFunc(time.Second, func() { close(e.done) })
	}
	return err
}

type lateLauncher struct{ mlxbridge.Launcher }

func (l lateLauncher) Launch(ctx context.Context, spec mlxbridge.LaunchSpec) (mlxbridge.Engine, error) {
	engine, err := l.Launcher.Launch(ctx, spec)
	return &lateEngine{Engine: engine, done: make(chan struct{})}, err
}

func TestPoolKnowsOfTheCrashBeforeItsRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := enginetest.NewLauncher(enginetest.Script{CrashAt: 3})
		pool := mlxbridge.NewPool(mlxbridge.PoolOptions{Launcher: lateLauncher{fake}})
		ask := func() enginetest.Answer {
			return enginetest.Collect(t, func(emit func(cluster.Chunk)) error {
				return pool.Generate(t.Context(), model("m", gib), "", enginetest.Count("m", 5), emit)
			})
		}
		mustCode(t, ask().Err, cluster.CodeWorkerCrashed)
		fake.SetScript(enginetest.Script{})
		if a := ask(); a.Err != nil || a.Text != "1, 2, 3, 4, 5" {
			t.Errorf("the request after the crash: %q, %v", a.Text, a.Err)
		}
		// Closing waits for the supervisor of the engine that never says that it is done.
		fake.Engines()[0].Crash()
		mustCode(t, ask().Err, cluster.CodeWorkerCrashed)
		mustCode(t, pool.Close(t.Context()), "")
	})
}
