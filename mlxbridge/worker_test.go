package mlxbridge_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
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

// isRunning is false for a process that has ended, also for one that nobody has reaped.
func isRunning(tb testing.TB, pid int) bool {
	tb.Helper()
	if _, err := os.Stat("/proc/self/stat"); err == nil {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // it may be gone
		_, state, _ := strings.Cut(string(stat), ") ")
		return state != "" && state[0] != 'Z' && state[0] != 'X'
	}
	out, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		tb.Fatalf("ps: %v", err)
	}
	state := strings.TrimSpace(string(out))
	return state != "" && !strings.HasPrefix(state, "Z")
}

func mustBeGone(tb testing.TB, pid int) {
	tb.Helper()
	waitFor(tb, fmt.Sprintf("process %d is gone", pid), func() bool { return !isRunning(tb, pid) })
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

func TestWorkerThatIsKilled(t *testing.T) {
	t.Parallel()
	engine := launch(t, enginetest.RealLauncher(t), enginetest.Tiny(t))
	kill := sync.OnceFunc(func() {
		if err := syscall.Kill(engine.Info().PID, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	})
	a := count(t.Context(), t, engine, 300, func(c cluster.Chunk) {
		if c.Text != "" {
			kill()
		}
	})
	mustCode(t, a.Err, cluster.CodeWorkerCrashed)
	if a.Text == "" || !strings.HasPrefix(enginetest.Counted(1, 300), a.Text) {
		t.Errorf("what was emitted is no prefix of the answer: %q", a.Text)
	}
	if !strings.Contains(a.Err.Error(), "killed by signal 9") {
		t.Errorf("the error does not say how it ended: %v", a.Err)
	}
	<-engine.Done()
	mustCode(t, engine.Err(), cluster.CodeWorkerCrashed)
	mustCode(t, count(t.Context(), t, engine, 3, nil).Err, cluster.CodeWorkerCrashed)
	mustBeGone(t, engine.Info().PID)
}

func TestWorkerThatStandsStillIsKilled(t *testing.T) {
	t.Parallel()
	const stall = 30 * time.Second
	launcher := mlxbridge.NewWorkerLauncher(mlxbridge.WorkerOptions{
		Environment: enginetest.Environment(t), CacheDir: enginetest.CacheDir(t), LogDir: t.TempDir(), Stall: stall,
	})
	stop := func(engine mlxbridge.Engine) {
		if err := syscall.Kill(engine.Info().PID, syscall.SIGSTOP); err != nil {
			t.Error(err)
		}
	}
	t.Run("busy", func(t *testing.T) {
		t.Parallel()
		engine := launch(t, launcher, enginetest.Tiny(t))
		once := sync.OnceFunc(func() { stop(engine) })
		a := count(t.Context(), t, engine, 300, func(c cluster.Chunk) {
			if c.Text != "" {
				once()
			}
		})
		mustCode(t, a.Err, cluster.CodeWorkerCrashed)
		// An answer under way is not held as long as one whose prompt may be long.
		says := regexp.MustCompile(`said nothing for ([0-9.hms]+)`).FindStringSubmatch(a.Err.Error())
		if len(says) == 0 {
			t.Fatalf("the error does not say why: %v", a.Err)
		}
		if held, err := time.ParseDuration(says[1]); err != nil || held >= stall {
			t.Errorf("the answer was held for %s, %v", says[1], err)
		}
		mustBeGone(t, engine.Info().PID)
	})
	t.Run("idle", func(t *testing.T) {
		t.Parallel()
		engine := launch(t, launcher, enginetest.Tiny(t))
		stop(engine)
		<-engine.Done()
		mustCode(t, engine.Err(), cluster.CodeWorkerCrashed)
		mustBeGone(t, engine.Info().PID)
	})
	t.Run("cancelled meanwhile", func(t *testing.T) {
		t.Parallel()
		engine := launch(t, launcher, enginetest.Tiny(t))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		a := count(ctx, t, engine, 300, func(c cluster.Chunk) {
			if c.Text != "" {
				stop(engine)
				cancel()
			}
		})
		mustCode(t, a.Err, cluster.CodeCancelled)
	})
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

func TestWorkerRefusesBrokenModels(t *testing.T) {
	t.Parallel()
	whole := enginetest.Tiny(t)
	for name, spoil := range map[string]func(dir string) error{
		"no folder":      os.RemoveAll,
		"no config":      func(dir string) error { return os.Remove(filepath.Join(dir, "config.json")) },
		"config no JSON": func(dir string) error { return os.WriteFile(filepath.Join(dir, "config.json"), []byte("{"), 0o600) },
		"no weights":     func(dir string) error { return os.Remove(filepath.Join(dir, "model.safetensors")) },
		"short weights":  func(dir string) error { return os.Truncate(filepath.Join(dir, "model.safetensors"), 100_000) },
		"no tokenizer":   func(dir string) error { return os.Remove(filepath.Join(dir, "tokenizer.json")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := whole
			spec.Dir = filepath.Join(t.TempDir(), "model")
			if err := os.CopyFS(spec.Dir, os.DirFS(whole.Dir)); err != nil {
				t.Fatal(err)
			}
			if err := spoil(spec.Dir); err != nil {
				t.Fatal(err)
			}
			engine, err := enginetest.RealLauncher(t).Launch(t.Context(), spec)
			mustCode(t, err, cluster.CodeBadModel)
			if engine != nil {
				t.Error("there is an engine")
			}
			if err != nil && (strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "tiny")) {
				t.Errorf("not one line that names the model: %q", err)
			}
		})
	}
}

func TestLaunchIsCancelledWhileItLoads(t *testing.T) {
	t.Parallel()
	launcher, spec := enginetest.RealLauncher(t), enginetest.Tiny(t)
	dir := filepath.Join(t.TempDir(), "model")
	if err := os.CopyFS(dir, os.DirFS(spec.Dir)); err != nil {
		t.Fatal(err)
	}
	// Whoever reads a pipe waits until it is written: a load that never ends, and that says when it has begun.
	spec.Dir = dir
	pipe := filepath.Join(dir, "tokenizer.json")
	if err := os.Remove(pipe); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	launched := make(chan error, 1)
	go func() {
		_, err := launcher.Launch(ctx, spec)
		launched <- err
	}()
	waitFor(t, "the worker reads its tokenizer", func() bool {
		f, err := os.OpenFile(pipe, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			t.Cleanup(func() { _ = f.Close() })
		}
		return err == nil || len(launched) > 0
	})
	cancel()
	mustCode(t, <-launched, cluster.CodeCancelled)
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

// holderVariable makes the test binary a process that holds a worker: its value is where the worker's log goes.
const holderVariable = "MLXBRIDGE_TEST_HOLDER"

func TestWorkerDoesNotOutliveItsParent(t *testing.T) {
	t.Parallel()
	enginetest.Environment(t) // so that the holder finds it
	hold := func(t *testing.T, signals ...syscall.Signal) {
		t.Helper()
		t.Parallel()
		holder, worker := startHolder(t)
		if !isRunning(t, worker) {
			t.Errorf("worker %d does not run", worker)
		}
		for _, s := range signals {
			if err := syscall.Kill(worker, s); err != nil {
				t.Error(err)
			}
		}
		if err := holder.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = holder.Wait() // it was killed
		mustBeGone(t, worker)
	}
	t.Run("busy", func(t *testing.T) { hold(t) })
	t.Run("stopped", func(t *testing.T) { hold(t, syscall.SIGSTOP) })
}

// startHolder starts a process that holds a worker, and returns both.
func startHolder(t *testing.T) (holder *exec.Cmd, worker int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), holderVariable+"="+t.TempDir(), "HOLDER_CACHE="+enginetest.CacheDir(t),
		"HOLDER_MODEL="+enginetest.Tiny(t).Dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	worker, convErr := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || convErr != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		t.Fatalf("the holder says %q: %v", line, err)
	}
	return cmd, worker
}

// holdWorker runs a worker that has much to do, and tells its process id.
func holdWorker() {
	ctx := context.Background()
	launcher := mlxbridge.NewWorkerLauncher(mlxbridge.WorkerOptions{
		Environment: mlxbridge.NewEnvironment(mlxbridge.EnvironmentOptions{CacheDir: os.Getenv("HOLDER_CACHE")}),
		CacheDir:    os.Getenv("HOLDER_CACHE"), LogDir: os.Getenv(holderVariable),
	})
	engine, err := launcher.Launch(ctx, mlxbridge.LaunchSpec{
		Model: cluster.Model{Name: "tiny"}, Dir: os.Getenv("HOLDER_MODEL"),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "holder:", err)
		return
	}
	tell := sync.OnceFunc(func() { _, _ = fmt.Fprintln(os.Stdout, engine.Info().PID) })
	for {
		err := engine.Generate(ctx, enginetest.Count("tiny", 300), func(c cluster.Chunk) {
			if c.Text != "" {
				tell()
			}
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, "holder:", err)
			return
		}
	}
}
