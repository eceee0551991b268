package mlxbridge_test

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// linkTree makes a copy of a folder whose files are the same: a test may remove them, but not write to them.
func linkTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case entry.IsDir():
			return os.MkdirAll(target, 0o755)
		case entry.Type()&fs.ModeSymlink != 0:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		default:
			return os.Link(path, target)
		}
	})
}

// ownEnvironment returns the cache folder of an environment that a test may damage, and the packages in it.
func ownEnvironment(t *testing.T) (cache, packages string) {
	t.Helper()
	python, err := enginetest.Environment(t).Ensure(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	whole := filepath.Dir(filepath.Dir(python))
	cache, err = os.MkdirTemp(enginetest.CacheDir(t), "own-") //nolint:usetesting // hard links need the same file system
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(cache); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(cache, "python", filepath.Base(whole))
	if err := linkTree(whole, dir); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "lib", "python3.*", "site-packages"))
	if err != nil || len(found) != 1 {
		t.Fatalf("packages: %v, %v", found, err)
	}
	return cache, found[0]
}

func TestEnvironmentIsUsedWithoutTouchingIt(t *testing.T) {
	t.Parallel()
	cache, _ := ownEnvironment(t)
	env := mlxbridge.NewEnvironment(mlxbridge.EnvironmentOptions{CacheDir: cache})
	python, err := env.Ensure(t.Context(), func(line string) { t.Errorf("it says %q", line) })
	if err != nil || !strings.HasPrefix(python, cache) {
		t.Errorf("got %q, %v", python, err)
	}
	python, rebuilt, err := env.Repair(t.Context(), nil)
	if err != nil || rebuilt || !strings.HasPrefix(python, cache) {
		t.Errorf("repair: %q, %v, %v", python, rebuilt, err)
	}
}

// Without bytecode every start of a worker takes twice as long.
func TestEnvironmentIsCompiledForAUserWhoCompilesNothingElse(t *testing.T) {
	t.Setenv("PYTHONDONTWRITEBYTECODE", "1")
	cache, packages := ownEnvironment(t)
	compiled := filepath.Join(packages, "mlx_lm", "__pycache__")
	if err := os.RemoveAll(compiled); err != nil {
		t.Fatal(err)
	}
	env := mlxbridge.NewEnvironment(mlxbridge.EnvironmentOptions{CacheDir: cache})
	if _, rebuilt, err := env.Repair(t.Context(), nil); err != nil || rebuilt {
		t.Fatalf("repair: %v, %v", rebuilt, err)
	}
	if found, err := filepath.Glob(filepath.Join(compiled, "generate.*.pyc")); err != nil || len(found) != 1 {
		t.Errorf("bytecode: %v, %v", found, err)
	}
}

func TestDamagedEnvironmentIsRepaired(t *testing.T) {
	t.Parallel()
	cache, packages := ownEnvironment(t)
	if err := os.Remove(filepath.Join(packages, "mlx_lm", "generate.py")); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var said []string
	launcher := mlxbridge.NewWorkerLauncher(mlxbridge.WorkerOptions{
		Environment: mlxbridge.NewEnvironment(mlxbridge.EnvironmentOptions{CacheDir: cache}),
		CacheDir:    cache, LogDir: t.TempDir(),
		Progress: func(line string) {
			mu.Lock()
			defer mu.Unlock()
			said = append(said, line)
		},
	})
	var launching sync.WaitGroup
	for range 2 { // two models at once repair it once
		launching.Go(func() {
			engine, err := launcher.Launch(t.Context(), enginetest.Tiny(t))
			if err != nil {
				t.Errorf("launch: %v (%s)", err, cluster.AsError(err).Hint)
				return
			}
			mustCount(t, engine, 20)
			mustCode(t, engine.Close(context.WithoutCancel(t.Context())), "")
		})
	}
	launching.Wait()
	if got := strings.Count(strings.Join(said, "\n"), "is damaged"); got != 1 {
		t.Errorf("it says %d times that the environment is damaged: %q", got, said)
	}
}

func TestPythonThatIsGiven(t *testing.T) {
	t.Parallel()
	bare, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, python, want string }{
		{"is not there", "/nonexistent/python", "names no interpreter: /nonexistent/python"},
		{"has no packages", bare, "mlx"},
		{"is no Python", "/bin/sh", "does not run"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			launcher := mlxbridge.NewWorkerLauncher(mlxbridge.WorkerOptions{
				Environment: mlxbridge.NewEnvironment(mlxbridge.EnvironmentOptions{CacheDir: t.TempDir(), Python: c.python}),
				CacheDir:    t.TempDir(), LogDir: t.TempDir(),
			})
			_, err := launcher.Launch(t.Context(), enginetest.Tiny(t))
			mustCode(t, err, cluster.CodeInternal)
			if err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if hint := cluster.AsError(err).Hint; !strings.Contains(hint, "unset it") {
				t.Errorf("the hint does not help: %q", hint)
			}
		})
	}
}

func TestInstallationThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	env := mlxbridge.NewEnvironment(mlxbridge.EnvironmentOptions{CacheDir: cache, Wheels: t.TempDir()}) // an empty folder
	_, err := env.Ensure(t.Context(), nil)
	mustCode(t, err, cluster.CodeInternal)
	if err != nil && !strings.Contains(err.Error(), "install Python environment") {
		t.Errorf("got %v", err)
	}
	if hint := cluster.AsError(err).Hint; !strings.Contains(hint, "package index") {
		t.Errorf("the hint does not help: %q", hint)
	}
	mustHoldOnly(t, filepath.Join(cache, "python"), "lock")
}

func TestInstallationThatIsCancelledLeavesNothing(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := mlxbridge.NewEnvironment(mlxbridge.EnvironmentOptions{CacheDir: cache}).Ensure(ctx, func(line string) {
		if strings.HasPrefix(line, "installing") {
			time.AfterFunc(100*time.Millisecond, cancel)
		}
	})
	mustCode(t, err, cluster.CodeCancelled)
	mustHoldOnly(t, filepath.Join(cache, "python"), "lock")
}

func mustHoldOnly(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("in %s are %q, want %q", dir, got, want)
	}
}
