package scenario_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mlxctl/mlxctl/internal/lab"
)

// binary is mlxctl as it is released, built once for all tests; version is what it says it is.
var binary string

const version = "v0.9.0-lab"

func TestMain(m *testing.M) {
	code := 1
	defer func() { os.Exit(code) }()
	dir, err := os.MkdirTemp("", "mlxctl-scenario-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if lab.Available(context.Background()) == nil { // else every test says so and skips
		if binary, err = build(filepath.Join(dir, "mlxctl"), version, nil); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
	}
	code = m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
}

// build makes an mlxctl of some version, with another text of some files, by their path in the repository.
func build(file, version string, instead map[string]string) (string, error) {
	args, err := overlay(filepath.Dir(file), instead)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build", "-trimpath", "-buildvcs=false"}, args...),
		"-ldflags", "-s -w -X main.version="+version, "-o", file, "github.com/mlxctl/mlxctl/cmd/mlxctl")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build mlxctl: %w\n%s", err, out)
	}
	return file, nil
}

// overlay has the go command see another text of files.
func overlay(dir string, instead map[string]string) ([]string, error) {
	if len(instead) == 0 {
		return nil, nil
	}
	replace := map[string]string{}
	for path, text := range instead {
		replaced, err := filepath.Abs(filepath.Join("../../..", path))
		if err != nil {
			return nil, err
		}
		replace[replaced] = filepath.Join(dir, "instead-"+filepath.Base(path))
		if err := os.WriteFile(replace[replaced], []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return nil, err
	}
	list := filepath.Join(dir, "overlay.json")
	return []string{"-overlay", list}, os.WriteFile(list, data, 0o600)
}
