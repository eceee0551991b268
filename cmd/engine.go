package cmd

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/mlxbridge"
)

// engine is how models run on this machine.
type engine interface {
	// prepare makes ready what launching needs and tells progress in lines.
	prepare(ctx context.Context, dirs config.Dirs, progress func(string)) error
	launcher(home, cache string, log *slog.Logger) mlxbridge.Launcher
}

// pythonVariable names an interpreter of the user's own for workers.
const pythonVariable = "MLXCTL_PYTHON"

// pythonEngine runs them in Python workers.
type pythonEngine struct{}

func (pythonEngine) prepare(ctx context.Context, dirs config.Dirs, progress func(string)) error {
	environment := mlxbridge.NewEnvironment(mlxbridge.EnvironmentOptions{CacheDir: dirs.Cache, Log: slog.New(slog.DiscardHandler)})
	_, err := environment.Ensure(ctx, progress)
	if err == nil && os.Getenv(pythonVariable) != "" { // what others made is not known to work
		_, _, err = environment.Repair(ctx, progress)
	}
	return err
}

func (pythonEngine) launcher(home, cache string, log *slog.Logger) mlxbridge.Launcher {
	return mlxbridge.NewWorkerLauncher(mlxbridge.WorkerOptions{
		Environment: mlxbridge.NewEnvironment(mlxbridge.EnvironmentOptions{CacheDir: cache, Log: log}),
		CacheDir:    cache,
		LogDir:      filepath.Join(home, "log"),
		Progress:    func(line string) { log.Info("waiting for a worker", "progress", line) },
		Log:         log,
	})
}
