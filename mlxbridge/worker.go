package mlxbridge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge/worker"
)

const (
	defaultStall = 30 * time.Second
	// importWait is for a worker's imports from a cold disk, after an installation with a virus scanner in between.
	importWait = 2 * time.Minute
	// Loading is given time for a slow disk, beside a fixed share for compiling.
	loadWait           = 5 * time.Minute
	loadBytesPerSecond = 50 << 20
)

// WorkerOptions say how Python workers are started.
type WorkerOptions struct {
	Environment *Environment // the Python to run; required
	CacheDir    string       // the worker's source is unpacked below it; required
	LogDir      string       // holds worker-<model>.log; required
	Env         []string     // base of the workers' environment, "NAME=value"; nil means that of this process
	// Stall is how long a worker with work may say nothing before it is killed; without work, or in the middle of an
	// answer, a third of it: three times as long as it was ever silent with work, if that is longer. Zero means 30 s.
	Stall time.Duration
	// Source is the workers' Python package; nil means the one that this program carries.
	Source fs.FS
	// Progress is told in one line what a launch waits for, such as the installation of the environment. It may be nil.
	Progress func(string)
	Log      *slog.Logger // nil means silence
}

// WorkerLauncher starts Python workers. It is safe for concurrent use.
type WorkerLauncher struct {
	o WorkerOptions
}

// NewWorkerLauncher returns a Launcher of Python workers.
func NewWorkerLauncher(o WorkerOptions) *WorkerLauncher {
	if o.Stall <= 0 {
		o.Stall = defaultStall
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Source == nil {
		o.Source = worker.Source
	}
	return &WorkerLauncher{o: o}
}

// Launch starts a worker for one model; see Launcher. The first launch on a machine installs the environment. A worker
// that could not start because something is missing from the environment has it installed again, once. One that somebody
// killed before it could answer is started again, once: nobody has seen anything of it.
func (l *WorkerLauncher) Launch(ctx context.Context, spec LaunchSpec) (Engine, error) {
	if spec.Dir == "" {
		return nil, cluster.Errorf(cluster.CodeBadModel, "model %s has no folder", spec.Model.Name)
	}
	python, err := l.o.Environment.Ensure(ctx, l.o.Progress)
	if err != nil {
		return nil, err
	}
	made := madeAt(python)
	engine, err := l.launch(ctx, python, spec)
	if killed, ok := errors.AsType[*killedError](err); ok {
		l.o.Log.WarnContext(ctx, "worker was killed while it was started; starting it again", "model", spec.Model.Name, "err", err)
		if engine, err = l.launch(ctx, python, spec); errors.As(err, &killed) {
			return nil, killed.cause
		}
	}
	var early *environmentError
	if !errors.As(err, &early) {
		return engineOrNil(engine), err
	}
	if early.orderly && l.o.Environment.isWhole(python) {
		return nil, early.cause
	}
	l.o.Log.WarnContext(ctx, "worker could not start; checking its environment", "model", spec.Model.Name, "err", err)
	python, rebuilt, err := l.o.Environment.Repair(ctx, l.o.Progress)
	if err != nil {
		return nil, err
	}
	if rebuilt || !madeAt(python).Equal(made) { // or by another launch meanwhile
		engine, err = l.launch(ctx, python, spec)
		if !errors.As(err, &early) {
			return engineOrNil(engine), err
		}
	}
	return nil, early.cause
}

// environmentError wraps an error that a damaged environment may have caused. orderly says that the worker itself gave
// it, so that at most a file is missing.
type environmentError struct {
	cause   *cluster.Error
	orderly bool
}

func (e *environmentError) Error() string { return e.cause.Error() }

// killedError is the end of a worker that somebody killed before it had loaded its model.
type killedError struct{ cause *cluster.Error }

func (e *killedError) Error() string { return e.cause.Error() }

func (e *killedError) Unwrap() error { return e.cause }

func engineOrNil(e *workerEngine) Engine {
	if e == nil {
		return nil
	}
	return e
}

func (l *WorkerLauncher) launch(ctx context.Context, python string, spec LaunchSpec) (*workerEngine, error) {
	source, err := unpackSource(l.o.Source, l.o.CacheDir)
	if err != nil {
		return nil, cluster.Errorf(cluster.CodeInternal, "%v", err)
	}
	name := spec.Model.Name
	// The worker outlives the launch.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), python, "-X", "utf8", "-m", "mlxworker", "--name", name)
	cmd.Dir = source
	cmd.Env = withFastBLAS(workerEnv(l.o.Env, source), blasFolders())
	process, err := startProcess(cmd)
	if err != nil {
		return nil, &environmentError{cause: cluster.Errorf(cluster.CodeInternal, "worker of %s: %v", name, err)}
	}
	log := openLogFile(filepath.Join(l.o.LogDir, "worker-"+LogName(name)+".log"), logFileBytes)
	e := newWorkerEngine(name, process, log, l.o.Stall, l.o.Log)
	if err := e.shakeHands(ctx, spec); err != nil {
		if e.wasKilled() {
			err = &killedError{cluster.AsError(e.Err())}
		}
		e.mu.Lock()
		e.closing = true // its end is no news any more
		e.mu.Unlock()
		e.kill("")
		<-e.done
		return nil, err
	}
	return e, nil
}

// shakeHands takes a started worker to the point where it has produced a token.
func (e *workerEngine) shakeHands(ctx context.Context, spec LaunchSpec) error {
	e.send(helloFrame{Type: "hello", Proto: protocolVersion})
	ready, err := e.await(ctx, importWait, "importing its packages")
	if err != nil {
		if cluster.CodeOf(err) == cluster.CodeWorkerCrashed {
			return &environmentError{cause: cluster.AsError(err)}
		}
		return err
	}
	if ready.Type != "ready" || ready.Proto != protocolVersion {
		return cluster.Errorf(cluster.CodeInternal, "worker of %s speaks protocol %d, not %d", e.name, ready.Proto, protocolVersion)
	}
	e.send(newLoadFrame(e.name, &spec))
	wait := loadWait + time.Duration((spec.Model.WeightBytes+spec.Model.Shape.ExtraBytes)/loadBytesPerSecond)*time.Second
	loaded, err := e.await(ctx, wait, "loading the model")
	if err != nil {
		return err
	}
	if loaded.Type == "load_error" {
		return e.loadError(loaded)
	}
	e.info = loaded.info(ready)
	e.startWatchdog()
	return nil
}

func (e *workerEngine) loadError(f *workerFrame) error {
	err := cluster.Errorf(knownCode(f.Code), "model %s cannot be loaded: %s", e.name, f.Message)
	err.Field = "model"
	switch err.Code {
	case cluster.CodeInternal, cluster.CodeUnsupported:
		// A file of a package may be missing: an architecture is a file, too.
		return &environmentError{cause: err.WithHint("%s", e.log.hint()), orderly: true}
	default:
		return err
	}
}

// await returns the next frame of the handshake.
func (e *workerEngine) await(ctx context.Context, most time.Duration, doing string) (*workerFrame, error) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case f := <-e.handshake:
		return f, nil
	case <-e.done:
		select {
		case f := <-e.handshake: // it said why before it ended
			return f, nil
		default:
			return nil, e.Err()
		}
	case <-ctx.Done():
		return nil, contextError(ctx)
	case <-timer.C:
		return nil, cluster.Errorf(cluster.CodeWorkerCrashed, "worker of %s was still %s after %s", e.name, doing, most).
			WithHint("%s", e.log.hint())
	}
}

// workerEnv makes the environment of a worker: what would lead Python astray is taken out of the base.
func workerEnv(base []string, source string) []string {
	set := map[string]string{
		"PYTHONPATH": source, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "PYTHONNOUSERSITE": "1",
		"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
	}
	if runtime.GOOS != "darwin" {
		// Read before the worker can set it: small products lose to threads.
		set["OPENBLAS_NUM_THREADS"] = "1"
	}
	return mergeEnv(base, set, "PYTHONHOME", "PYTHONSTARTUP", "PYTHONWARNINGS")
}

// mergeEnv returns base, or this process's environment for nil, with some variables set and some removed.
func mergeEnv(base []string, set map[string]string, remove ...string) []string {
	if base == nil {
		base = os.Environ()
	}
	var out []string
	for _, entry := range base {
		name, _, _ := strings.Cut(entry, "=")
		drop := false
		for _, r := range remove {
			drop = drop || name == r
		}
		if _, replaced := set[name]; !drop && !replaced {
			out = append(out, entry)
		}
	}
	for name, value := range set {
		out = append(out, name+"="+value)
	}
	return out
}

// unsafeInFile is what may not stand in the name of a log file.
var unsafeInFile = regexp.MustCompile(`[^A-Za-z0-9._@-]+`)

// LogName is the part of a log's file name that stands for a model, worker-<LogName>.log: of a path, the last part and a mark
// that tells it from others.
func LogName(model string) string {
	if filepath.IsAbs(model) {
		sum := sha256.Sum256([]byte(model))
		return fmt.Sprintf("%s-%s", unsafeInFile.ReplaceAllString(filepath.Base(model), "_"), hex.EncodeToString(sum[:4]))
	}
	return unsafeInFile.ReplaceAllString(strings.ReplaceAll(model, "/", "--"), "_")
}
