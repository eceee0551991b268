package enginetest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
)

// CacheDir returns the folder that tests of all packages share for what is expensive to make: the workers' Python
// environment. It is MLXCTL_TEST_CACHE where that is set, else a folder of its own in this user's cache, and stays
// after the tests.
func CacheDir(tb testing.TB) string {
	tb.Helper()
	if dir := os.Getenv("MLXCTL_TEST_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		tb.Fatalf("no cache folder for the Python environment; set MLXCTL_TEST_CACHE: %v", err)
	}
	return filepath.Join(dir, "mlxctl-test")
}

// Environment returns the Python environment that tests share. The first test on a machine installs it, which takes a
// minute; the others wait for it.
func Environment(tb testing.TB) *mlxbridge.Environment {
	tb.Helper()
	env := mlxbridge.NewEnvironment(mlxbridge.EnvironmentOptions{CacheDir: CacheDir(tb)})
	if _, err := env.Ensure(tb.Context(), func(line string) { tb.Log(line) }); err != nil {
		tb.Fatalf("the workers' Python environment cannot be made: %v (%s)", err, cluster.AsError(err).Hint)
	}
	return env
}

// RealLauncher returns a Launcher of real workers, with a short watchdog.
func RealLauncher(tb testing.TB) *mlxbridge.WorkerLauncher {
	tb.Helper()
	return mlxbridge.NewWorkerLauncher(mlxbridge.WorkerOptions{
		Environment: Environment(tb), CacheDir: CacheDir(tb), LogDir: tb.TempDir(), Stall: 15 * time.Second,
	})
}

// Tiny returns what to load for the smallest of the test models: it counts, and runs everywhere.
func Tiny(tb testing.TB) mlxbridge.LaunchSpec {
	tb.Helper()
	return spec(tb, "tiny", "internal/library/tiny", 2048)
}

// Small returns what to load for the larger test model.
func Small(tb testing.TB) mlxbridge.LaunchSpec {
	tb.Helper()
	return spec(tb, "small", "testdata/models/small", 12288)
}

func spec(tb testing.TB, name, folder string, kvBytes int64) mlxbridge.LaunchSpec {
	tb.Helper()
	dir := filepath.Join(moduleRoot(tb), filepath.FromSlash(folder))
	info, err := os.Stat(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		tb.Fatalf("test model: %v", err)
	}
	return mlxbridge.LaunchSpec{Dir: dir, Model: cluster.Model{
		Name: name, Digest: "test-" + name, WeightBytes: info.Size(), KVBytesPerToken: kvBytes, Context: 8192,
	}}
}

// moduleRoot is found from the folder that the test runs in, which is inside it.
func moduleRoot(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			tb.Fatal("the test does not run inside the module")
		}
		dir = parent
	}
}
