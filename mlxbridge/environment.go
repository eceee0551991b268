package mlxbridge

import (
	"context"
	"log/slog"
)

// EnvironmentOptions say where the Python environment lives.
type EnvironmentOptions struct {
	CacheDir string // environments are <CacheDir>/python/<key>; required
	Log      *slog.Logger
}

// Environment is the locked Python environment of the worker.
type Environment struct{ o EnvironmentOptions }

func NewEnvironment(o EnvironmentOptions) *Environment { return &Environment{o: o} }

// Ensure returns the interpreter of the environment, after installing it where it is not there yet.
func (e *Environment) Ensure(ctx context.Context, progress func(string)) (string, error) { return "", nil }
