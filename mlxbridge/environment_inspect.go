package mlxbridge

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// Inspect says whether the environment is whole and runs, and returns its interpreter. It installs and mends nothing.
func (e *Environment) Inspect(ctx context.Context) (string, error) {
	if e.o.Python != "" {
		return e.o.Python, errors.Join(e.checkGiven(), e.check(ctx, e.o.Python))
	}
	python := e.find()
	if python == "" {
		return "", cluster.Errorf(cluster.CodeConflict, "there is no Python environment for this version in %s", e.root)
	}
	if err := checkFiles(filepath.Dir(filepath.Dir(python))); err != nil {
		return "", cluster.Errorf(cluster.CodeInternal, "the Python environment is damaged: %v", err)
	}
	return python, e.check(ctx, python)
}

// Base returns the interpreter that an environment here is made from.
func (e *Environment) Base(ctx context.Context) (string, error) {
	base, err := findPython(ctx, e.candidates())
	return base.Path, err
}
