package mlxbridge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/internal/durable"
	"github.com/mlxctl/mlxctl/mlxbridge/worker"
)

const stampName = "mlxctl.json"

// EnvironmentOptions say where the Python environment of the workers comes from.
type EnvironmentOptions struct {
	CacheDir string // environments are <CacheDir>/python/<key>; required
	// Python is an interpreter to be used as it is: nothing is installed. Empty means that of MLXCTL_PYTHON, if set.
	Python string
	// Wheels is a folder of wheels to install from without a network. Empty means that of MLXCTL_WHEELS, if set.
	Wheels string
	Log    *slog.Logger // nil means silence
}

// Environment is the locked Python environment that workers run in: every package of it is known by its hash. It is
// made once and then only used. Safe for concurrent use, also by several processes.
type Environment struct {
	o    EnvironmentOptions
	root string
	lock string // the packages, with their hashes
	// candidates lists the interpreters of this machine, best first.
	candidates func() []string
}

// NewEnvironment describes an environment and does nothing yet.
func NewEnvironment(o EnvironmentOptions) *Environment {
	if o.Python == "" {
		o.Python = os.Getenv("MLXCTL_PYTHON")
	}
	if o.Wheels == "" {
		o.Wheels = os.Getenv("MLXCTL_WHEELS")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Environment{o: o, root: filepath.Join(o.CacheDir, "python"), lock: worker.Requirements, candidates: pythonCandidates}
}

// stamp is written last into an environment: one without it is not whole.
type stamp struct {
	Lock   string `json:"lock"`   // digest of the list of packages
	Python string `json:"python"` // version
	Base   string `json:"base"`   // the interpreter that it was made from
}

// Ensure returns the interpreter of the environment. Where there is none it installs one, which takes a network and a
// minute, and tells progress, which may be nil, in one line at a time what it does. An environment that is there is used
// without touching anything.
func (e *Environment) Ensure(ctx context.Context, progress func(string)) (string, error) {
	if e.o.Python != "" {
		return e.o.Python, e.checkGiven()
	}
	if python := e.find(); python != "" {
		return python, nil
	}
	if progress == nil {
		progress = func(string) {}
	}
	unlock, err := e.acquire(ctx, progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	if python := e.find(); python != "" { // made by whoever held the lock
		return python, nil
	}
	return e.install(ctx, progress)
}

// Repair checks an environment that a worker could not start in. It installs it again when something in it is missing
// or does not run; rebuilt says so.
func (e *Environment) Repair(ctx context.Context, progress func(string)) (python string, rebuilt bool, err error) {
	if progress == nil {
		progress = func(string) {}
	}
	if e.o.Python != "" {
		return e.o.Python, false, e.check(ctx, e.o.Python)
	}
	unlock, err := e.acquire(ctx, progress)
	if err != nil {
		return "", false, err
	}
	defer unlock()
	if python = e.find(); python != "" {
		err := errors.Join(checkFiles(filepath.Dir(filepath.Dir(python))), e.check(ctx, python))
		if err == nil {
			return python, false, nil
		}
		if ctx.Err() != nil {
			return "", false, contextError(ctx)
		}
		e.o.Log.WarnContext(ctx, "python environment is damaged; installing it again", "err", err)
		progress("the Python environment is damaged; installing it again")
		if err := discard(filepath.Dir(filepath.Dir(python))); err != nil {
			return "", false, cluster.Errorf(cluster.CodeInternal, "remove damaged Python environment: %v", err)
		}
	}
	python, err = e.install(ctx, progress)
	return python, err == nil, err
}

// find returns the interpreter of a whole environment for the packages of this version, or "".
func (e *Environment) find() string {
	stamps, _ := filepath.Glob(filepath.Join(e.root, "*", stampName)) // the pattern is well formed
	for _, path := range stamps {
		var s stamp
		data, err := os.ReadFile(path)
		if err != nil || json.Unmarshal(data, &s) != nil || s.Lock != e.lockDigest() {
			continue
		}
		python := pythonOf(filepath.Dir(path))
		if _, err := os.Stat(python); err == nil { // its base may have been removed
			return python
		}
	}
	return ""
}

// madeAt tells one making of an environment from the next; zero for an interpreter that is in none.
func madeAt(python string) time.Time {
	info, err := os.Stat(filepath.Join(filepath.Dir(filepath.Dir(python)), stampName))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

func (e *Environment) lockDigest() string {
	sum := sha256.Sum256([]byte(e.lock))
	return hex.EncodeToString(sum[:])
}

// key names the environment of these packages for one interpreter.
func (e *Environment) key(base interpreter) string {
	sum := sha256.Sum256([]byte(e.lockDigest() + " " + base.Version + " " + base.Machine))
	return hex.EncodeToString(sum[:])[:12]
}

func pythonOf(dir string) string { return filepath.Join(dir, "bin", "python") }

func (e *Environment) checkGiven() error {
	if info, err := os.Stat(e.o.Python); err != nil || info.IsDir() {
		return cluster.Errorf(cluster.CodeInternal, "MLXCTL_PYTHON names no interpreter: %s", e.o.Python).
			WithHint("unset it to let mlxctl make an environment of its own")
	}
	return nil
}

// acquire takes the lock that keeps a second installer waiting.
func (e *Environment) acquire(ctx context.Context, progress func(string)) (unlock func(), err error) {
	if err := os.MkdirAll(e.root, 0o755); err != nil {
		return nil, cluster.Errorf(cluster.CodeInternal, "make folder for the Python environment: %v", err)
	}
	path := filepath.Join(e.root, "lock")
	l, err := durable.TryLock(path)
	if errors.Is(err, durable.ErrHeld) {
		progress("waiting for another mlxctl that installs the Python environment")
		l, err = durable.Lock(ctx, path)
	}
	if err == nil {
		return l.Release, nil
	}
	if ctx.Err() != nil {
		return nil, contextError(ctx)
	}
	return nil, cluster.Errorf(cluster.CodeInternal, "lock the Python environment: %v", err)
}

// install makes the environment, under the lock. It appears whole or not at all.
func (e *Environment) install(ctx context.Context, progress func(string)) (string, error) {
	e.sweep()
	base, err := findPython(ctx, e.candidates())
	if err != nil {
		return "", err
	}
	final := filepath.Join(e.root, e.key(base))
	if err := discard(final); err != nil { // it is there but has no stamp
		return "", cluster.Errorf(cluster.CodeInternal, "remove unfinished Python environment: %v", err)
	}
	tmp := filepath.Join(e.root, ".new-"+filepath.Base(final))
	defer func() { _ = os.RemoveAll(tmp) }()
	started := time.Now()
	if err := e.fill(ctx, tmp, base, progress); err != nil {
		return "", err
	}
	progress("checking the Python environment")
	if err := e.check(ctx, pythonOf(tmp)); err != nil {
		return "", err
	}
	if err := e.finish(tmp, final, base); err != nil {
		return "", cluster.Errorf(cluster.CodeInternal, "finish Python environment: %v", err)
	}
	e.o.Log.InfoContext(ctx, "python environment installed", "path", final, "python", base.Version, "dur", time.Since(started))
	return pythonOf(final), nil
}

func (e *Environment) finish(tmp, final string, base interpreter) error {
	data, err := json.Marshal(stamp{Lock: e.lockDigest(), Python: base.Version, Base: base.Path})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, stampName), data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, final)
}

// sweep removes what killed installers left behind; under the lock nothing else makes such folders.
func (e *Environment) sweep() {
	for _, pattern := range []string{".new-*", ".old-*"} {
		left, _ := filepath.Glob(filepath.Join(e.root, pattern)) // the pattern is well formed
		for _, dir := range left {
			_ = os.RemoveAll(dir)
		}
	}
}

// discard takes a folder out of the way at once, and then removes it.
func discard(dir string) error {
	old := filepath.Join(filepath.Dir(dir), ".old-"+filepath.Base(dir))
	if err := os.RemoveAll(old); err != nil {
		return err
	}
	if err := os.Rename(dir, old); err != nil {
		if os.IsNotExist(err) {
			return nil
		}
		return err
	}
	return os.RemoveAll(old)
}

// check runs what a worker would import. In an environment of our own this leaves the bytecode that halves the time of a
// worker's start, also for a user who wants none elsewhere.
func (e *Environment) check(ctx context.Context, python string) error {
	const program = "import mlx.core as mx, mlx_lm, transformers, tokenizers, jinja2.sandbox, jinja2.ext; mx.eval(mx.zeros(1))"
	env := workerEnv(nil, os.DevNull)
	if e.o.Python == "" {
		env = mergeEnv(env, nil, "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
	}
	out, err := runQuietly(ctx, env, nil, python, "-X", "utf8", "-c", program)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	e.o.Log.ErrorContext(ctx, "python environment does not run", "python", python, "out", out)
	broken := cluster.Errorf(cluster.CodeInternal, "the Python environment does not run: %s", lastLine(out, err.Error()))
	if e.o.Python != "" {
		return broken.WithHint("MLXCTL_PYTHON is %s; unset it to let mlxctl make an environment of its own", e.o.Python)
	}
	return broken.WithHint("%s %s needs macOS 14 on Apple silicon, or Linux with glibc 2.35", runtime.GOOS, runtime.GOARCH)
}

func lastLine(out, otherwise string) string {
	l := logFile{ring: []byte(out)}
	if line := l.lastLine(); line != "" {
		return line
	}
	return otherwise
}

// checkFiles compares an environment's files with the lists that its packages brought: each must be there, as long as
// it was.
func checkFiles(dir string) error {
	lists, _ := filepath.Glob(filepath.Join(dir, "lib", "python*", "site-packages", "*.dist-info", "RECORD"))
	if len(lists) == 0 {
		return fmt.Errorf("no packages in %s", dir)
	}
	for _, list := range lists {
		if err := checkRecord(list); err != nil {
			return err
		}
	}
	return nil
}
