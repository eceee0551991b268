package mlxbridge_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// lines is a log that may be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A worker that somebody kills before it is ready is started again, once; its environment is not suspected.
func TestWorkerThatIsKilledBeforeItIsReady(t *testing.T) {
	t.Parallel()
	for fault, want := range map[string]cluster.Code{
		"killed before it is ready":         "",
		"killed before it is ready, always": cluster.CodeWorkerCrashed,
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			var log lines
			starts := filepath.Join(t.TempDir(), "starts")
			launcher := mlxbridge.NewWorkerLauncher(mlxbridge.WorkerOptions{
				Environment: enginetest.Environment(t), CacheDir: enginetest.CacheDir(t), LogDir: t.TempDir(), Source: damaged(t),
				Env: append(os.Environ(), "MLXBRIDGE_TEST_FAULT="+fault, "MLXBRIDGE_TEST_ARMED="+starts),
				Log: slog.New(slog.NewTextHandler(&log, nil)),
			})
			engine, err := launcher.Launch(t.Context(), enginetest.Tiny(t))
			mustCode(t, err, want)
			if err == nil {
				mustCount(t, engine, 20)
				mustCode(t, engine.Close(t.Context()), "")
			}
			if data, _ := os.ReadFile(starts); strings.Count(string(data), "started") != 2 {
				t.Errorf("it was started like this: %q", data)
			}
			if strings.Contains(log.String(), "environment") {
				t.Errorf("the environment was suspected: %s", log.String())
			}
		})
	}
}
