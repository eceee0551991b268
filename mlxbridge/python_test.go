package mlxbridge

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mlxctl/mlxctl/internal/cluster"
)

// script writes an executable that stands for an interpreter.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "python3")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestNoPython(t *testing.T) {
	t.Parallel()
	old := script(t, `echo '{"version": "3.9.1", "minor": 9, "machine": "arm64", "has_venv": true}'`)
	for _, c := range []struct {
		name       string
		candidates []string
		want       string
	}{
		{"none at all", nil, "no Python 3.11 to 3.13 on this machine"},
		{"an old one", []string{old}, old + " is 3.9.1 on arm64"},
		{"one that does not run", []string{script(t, "exit 1"), script(t, "echo nonsense")}, "no Python 3.11 to 3.13"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := NewEnvironment(EnvironmentOptions{CacheDir: t.TempDir()})
			e.candidates = func() []string { return c.candidates }
			_, err := e.Ensure(t.Context(), nil)
			if got := cluster.CodeOf(err); got != cluster.CodeInternal || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q: %v; want %q", got, err, c.want)
			}
			if hint := cluster.AsError(err).Hint; !strings.Contains(hint, "MLXCTL_PYTHON") {
				t.Errorf("the hint does not help: %q", hint)
			}
		})
	}
}

func TestPythonWithoutVenv(t *testing.T) {
	t.Parallel()
	if findUV() != "" {
		return // uv makes environments for any Python
	}
	e := NewEnvironment(EnvironmentOptions{CacheDir: t.TempDir()})
	python := script(t, `echo '{"version": "3.12.1", "minor": 12, "machine": "arm64", "has_venv": false}'`)
	e.candidates = func() []string { return []string{python} }
	_, err := e.Ensure(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "no ensurepip") {
		t.Errorf("got %v", err)
	}
	if hint := cluster.AsError(err).Hint; !strings.Contains(hint, "python3-venv") {
		t.Errorf("the hint does not help: %q", hint)
	}
}

func TestNewestPythonIsTaken(t *testing.T) {
	t.Parallel()
	say := func(version string, minor string, venv string) string {
		return script(t, `echo '{"version": "`+version+`", "minor": `+minor+`, "machine": "arm64", "has_venv": `+venv+`}'`)
	}
	bare, whole := say("3.13.0", "13", "false"), say("3.12.1", "12", "true")
	found, err := findPython(t.Context(), []string{script(t, "exit 3"), bare, whole})
	want := whole
	if findUV() != "" {
		want = bare
	}
	if err != nil || found.Path != want {
		t.Errorf("got %+v, %v; want %s", found, err, want)
	}
}
