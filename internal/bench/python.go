package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/config"
	"github.com/mlxctl/mlxctl/mlxbridge"
)

// endWait is how long a program may take to end when it is told to.
const endWait = 15 * time.Second

//go:embed bare.py
var bareSource string

// python returns the interpreter with the packages that workers run with.
func (b *bench) python(ctx context.Context) (string, error) {
	if b.interpreter != "" {
		return b.interpreter, nil
	}
	dirs, err := config.Locate(os.LookupEnv, runtime.GOOS)
	if err != nil {
		return "", err
	}
	e := mlxbridge.NewEnvironment(mlxbridge.EnvironmentOptions{CacheDir: dirs.Cache})
	b.interpreter, err = e.Ensure(ctx, func(line string) { fmt.Fprintln(os.Stderr, line) })
	if err != nil {
		return "", err
	}
	return b.interpreter, b.chooseBLAS(ctx)
}

// chooseBLAS finds a fast matrix library for MLX's CPU backend, for both sides of every comparison.
func (b *bench) chooseBLAS(ctx context.Context) error {
	if runtime.GOOS == "darwin" {
		b.blas = "accelerate"
		return nil
	}
	worker := workerDir(b.root)
	cmd := exec.CommandContext(ctx, b.interpreter, "-m", "bench.blas")
	cmd.Dir, cmd.Env, cmd.Stderr = worker, pythonEnv("PYTHONPATH="+worker), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("look for a BLAS: %w", err)
	}
	b.blas = "reference"
	if b.preload = strings.TrimSpace(string(out)); b.preload != "" {
		b.blas = "openblas"
	}
	return nil
}

func workerDir(root string) string { return filepath.Join(root, "mlxbridge", "worker") }

// fast is the variable that has a process multiply with the library that chooseBLAS found.
func (b *bench) fast() []string {
	if b.preload == "" {
		return nil
	}
	return []string{"LD_PRELOAD=" + b.preload}
}

// pythonEnv is the environment that workers get, as far as it concerns speed.
func pythonEnv(extra ...string) []string {
	env := append(os.Environ(), "HF_HUB_OFFLINE=1", "TOKENIZERS_PARALLELISM=false", "PYTHONNOUSERSITE=1")
	if runtime.GOOS != "darwin" {
		env = append(env, "MLX_DISABLE_COMPILE=1", "OPENBLAS_NUM_THREADS=1")
	}
	return append(env, extra...)
}

func tinyModel(root string) string { return filepath.Join(root, "internal", "library", "tiny") }

func smallModel(root string) string { return filepath.Join(root, "testdata", "models", "small") }

// bare is a process that runs mlx-lm as it is.
type bare struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// bareAnswer is one measurement of it.
type bareAnswer struct {
	Tokens       float64 `json:"tokens"`
	Seconds      float64 `json:"seconds"`
	FirstSeconds float64 `json:"first_seconds"`
}

func (b *bench) startBare(ctx context.Context, model string) (*bare, error) {
	python, err := b.python(ctx)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, python, "-c", bareSource, model)
	cmd.Env, cmd.Stderr = pythonEnv(b.fast()...), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("open pipe to mlx-lm: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("open pipe from mlx-lm: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start mlx-lm: %w", err)
	}
	started := &bare{cmd: cmd, in: in, out: bufio.NewScanner(out)}
	if !started.out.Scan() {
		started.close()
		return nil, fmt.Errorf("mlx-lm did not start")
	}
	return started, nil
}

func (b *bare) measure(prompts []string, maxTokens int) (bareAnswer, error) {
	var a bareAnswer
	ask, err := json.Marshal(map[string]any{"prompts": prompts, "max_tokens": maxTokens})
	if err != nil {
		return a, fmt.Errorf("encode question: %w", err)
	}
	if _, err := b.in.Write(append(ask, '\n')); err != nil {
		return a, fmt.Errorf("ask mlx-lm: %w", err)
	}
	if !b.out.Scan() {
		return a, fmt.Errorf("mlx-lm ended: %w", b.cmd.Wait())
	}
	if err := json.Unmarshal(b.out.Bytes(), &a); err != nil {
		return a, fmt.Errorf("read what mlx-lm says: %w", err)
	}
	return a, nil
}

// close lets the process end: its input is over.
func (b *bare) close() {
	_ = b.in.Close()
	_ = b.cmd.Wait()
}
