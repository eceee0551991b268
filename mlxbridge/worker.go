package mlxbridge

import (
	"context"
	"log/slog"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// WorkerOptions say how Python workers are started.
type WorkerOptions struct {
	Environment *Environment // the Python to run; required
	CacheDir    string       // the worker's source is unpacked here; required
	LogDir      string       // worker-<model>.log; required
	Env         []string     // of the worker, "NAME=value", beside what the worker needs; nil means this process's own
	Stall       time.Duration
	// Progress is told in one line what a launch waits for, such as the installation of the environment; may be nil.
	Progress func(string)
	Log      *slog.Logger
}

// WorkerLauncher starts Python workers.
type WorkerLauncher struct{ o WorkerOptions }

func NewWorkerLauncher(o WorkerOptions) *WorkerLauncher { return &WorkerLauncher{o: o} }

func (l *WorkerLauncher) Launch(ctx context.Context, spec LaunchSpec) (Engine, error) {
	return nil, cluster.Errorf(cluster.CodeInternal, "not there yet")
}
