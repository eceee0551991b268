package cmd

import (
	"context"
	"log/slog"
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

// pythonEngine runs them in Python workers.
type pythonEngine struct{}

func (pythonEngine) prepare(ctx context.Context, dirs config.Dirs, progress func(string)) error {
	_, err := mlxbridge.NewEnvironment(mlxbridge.EnvironmentOptions{CacheDir: dirs.Cache, Log: slog.New(slog.DiscardHandler)}).
		Ensure(ctx, progress)
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
