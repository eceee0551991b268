package enginetest_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFakeKeepsThePromises(t *testing.T) {
	t.Parallel()
	launcher := enginetest.NewLauncher(enginetest.Script{TokensPerSecond: 3000})
	enginetest.Conformance(t, launcher, mlxbridge.LaunchSpec{Model: cluster.Model{Name: "fake"}})
	if left := launcher.Engines(); len(left) != 1 { // the one that the suite closes when it is over
		t.Errorf("%d engines are left", len(left))
	}
}

func launch(t *testing.T, l *enginetest.Launcher) mlxbridge.Engine {
	t.Helper()
	engine, err := l.Launch(t.Context(), mlxbridge.LaunchSpec{Model: cluster.Model{Name: "fake"}})
	if err != nil {
		t.Fatal(err)
	}
	return engine
}

func TestTenThousandInstantReplies(t *testing.T) {
	t.Parallel()
	engine := launch(t, enginetest.NewLauncher(enginetest.Script{}))
	prompt := "anything"
	var asking sync.WaitGroup
	for range 100 {
		asking.Go(func() {
			for range 100 {
				a := enginetest.Collect(t, func(emit func(cluster.Chunk)) error {
					return engine.Generate(t.Context(), &cluster.Request{Prompt: &prompt}, emit)
				})
				if a.Err != nil || a.Text != "ok" || a.Chunks != 1 || a.Last.Usage.CompletionTokens != 1 {
					t.Errorf("got %+v", a)
				}
			}
		})
	}
	asking.Wait()
	if got := engine.Stats().Counters.Finished; got != 10_000 {
		t.Errorf("%d are counted", got)
	}
}

func TestInstantAnswersComeTokenByToken(t *testing.T) {
	t.Parallel()
	engine := launch(t, enginetest.NewLauncher(enginetest.Script{}))
	a := enginetest.Collect(t, func(emit func(cluster.Chunk)) error {
		return engine.Generate(t.Context(), enginetest.Count("fake", 300), emit)
	})
	if a.Err != nil || a.Text != enginetest.Counted(1, 300) || a.Chunks != 300 {
		t.Errorf("%d chunks, %q, %v", a.Chunks, a.Text, a.Err)
	}
}

func TestCrash(t *testing.T) {
	t.Parallel()
	for _, rate := range []float64{0, 10_000} {
		launcher := enginetest.NewLauncher(enginetest.Script{CrashAt: 4, TokensPerSecond: rate})
		engine := launch(t, launcher)
		a := enginetest.Collect(t, func(emit func(cluster.Chunk)) error {
			return engine.Generate(t.Context(), enginetest.Count("fake", 9), emit)
		})
		if got := cluster.CodeOf(a.Err); got != cluster.CodeWorkerCrashed || a.Text != "1, 2, 3" {
			t.Errorf("%q and then %q", a.Text, got)
		}
		<-engine.Done()
		if got := cluster.CodeOf(engine.Err()); got != cluster.CodeWorkerCrashed {
			t.Errorf("the engine ended with %q", got)
		}
		if left := launcher.Engines(); len(left) != 0 {
			t.Errorf("%d engines live", len(left))
		}
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		engine := launch(t, enginetest.NewLauncher(enginetest.Script{
			LoadFor: 3 * time.Second, Prefill: 2 * time.Second, TokensPerSecond: 10,
		}))
		if got := time.Since(began); got != 3*time.Second {
			t.Errorf("loading took %s", got)
		}
		var first time.Duration
		began = time.Now()
		a := enginetest.Collect(t, func(emit func(cluster.Chunk)) error {
			return engine.Generate(t.Context(), enginetest.Count("fake", 20), func(c cluster.Chunk) {
				emit(c)
				if first == 0 && c.Text != "" {
					first = time.Since(began)
				}
			})
		})
		if got := time.Since(began); a.Err != nil || first != 2100*time.Millisecond || got != 4*time.Second {
			t.Errorf("first token after %s, the last after %s, %v", first, got, a.Err)
		}
		if u := a.Last.Usage; u.Prefill != 2*time.Second || u.Decode != 2*time.Second {
			t.Errorf("usage %+v", u)
		}
	})
}

func TestHang(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		launcher := enginetest.NewLauncher(enginetest.Script{HangAt: 5})
		engine := launch(t, launcher)
		var asking sync.WaitGroup
		for range 3 {
			asking.Go(func() {
				a := enginetest.Collect(t, func(emit func(cluster.Chunk)) error {
					return engine.Generate(t.Context(), enginetest.Count("fake", 9), emit)
				})
				if got := cluster.CodeOf(a.Err); got != cluster.CodeWorkerCrashed || len(a.Tokens) > 4 {
					t.Errorf("%q and then %q", a.Text, got)
				}
			})
		}
		time.AfterFunc(time.Hour, launcher.Engines()[0].Crash)
		began := time.Now()
		asking.Wait()
		if got := time.Since(began); got != time.Hour {
			t.Errorf("it hung for %s", got)
		}
	})
}
