package mlxbridge_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
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
