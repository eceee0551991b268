package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/mlxctl/mlxctl/internal/bootstrap"
	"github.com/mlxctl/mlxctl/internal/bootstrap/plan"
	"github.com/mlxctl/mlxctl/internal/lab"
	"github.com/mlxctl/mlxctl/mlxbridge/worker"
)

// upHosts is how many hosts a cluster is formed of.
const upHosts = 8

// benchUp measures how long `mlxctl up` takes with hosts that Bonjour finds: once with hosts that have nothing, whose
// Python packages the operator sends, and once with hosts that have the workers' environment. It needs a lab.
func benchUp(ctx context.Context, b *bench) error {
	if err := lab.Available(ctx); err != nil {
		return fmt.Errorf("it needs root on Linux and what `scripts/deps.sh test` installs: %w", err)
	}
	python, err := b.python(ctx)
	if err != nil {
		return err
	}
	cache := filepath.Dir(filepath.Dir(filepath.Dir(filepath.Dir(python)))) // <cache>/python/<key>/bin/python
	for _, kind := range []struct {
		name    string
		isBlank bool
	}{{"prepared", false}, {"blank", true}} {
		if err := b.formLab(ctx, fmt.Sprintf("up_%d_%s_", upHosts, kind.name), cache, kind.isBlank); err != nil {
			return fmt.Errorf("%s hosts: %w", kind.name, err)
		}
	}
	return nil
}

// formLab makes a lab, forms a cluster of it, and does it again.
func (b *bench) formLab(ctx context.Context, prefix, cache string, isBlank bool) (err error) {
	l, err := lab.Start(ctx, lab.Options{
		Hosts: upHosts, Binary: filepath.Join(b.root, "bin", "mlxctl"), Cache: cache,
		Each: func(i int, s *lab.Spec) { s.Blank = isBlank && i >= 0 },
	})
	if err != nil {
		return fmt.Errorf("start lab: %w", err)
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if isBlank {
		if err := b.bringWheels(ctx, l, cache); err != nil {
			return err
		}
	}
	first, err := up(ctx, l)
	if err != nil {
		return err
	}
	second, err := up(ctx, l)
	if err != nil {
		return err
	}
	if first.serving != upHosts+1 || second.serving != first.serving || second.changed != 0 {
		return fmt.Errorf("%d nodes served, then %d with %d changed", first.serving, second.serving, second.changed)
	}
	b.add(figure{Name: prefix + "seconds", Value: first.seconds, Unit: "s"})
	b.add(figure{Name: prefix + "ours", Value: first.ours(), Unit: "share"})
	for _, step := range []string{plan.StepCopy, plan.StepPython, plan.StepUnit, plan.StepLink, plan.StepProve} {
		b.add(figure{Name: prefix + step, Value: first.steps[step] / upHosts, Unit: "s"})
	}
	b.add(figure{Name: prefix + "again_seconds", Value: second.seconds, Unit: "s", Target: 3, AtMost: true})
	return nil
}

// bringWheels gives the operator the packages that the hosts need, as if it had fetched them before.
func (b *bench) bringWheels(ctx context.Context, l *lab.Lab, cache string) error {
	h := l.Hosts[0]
	out, err := h.Exec(ctx, h.User, "sh", "-c", `for p in python3.13 python3.12 python3.11; do command -v $p && exit; done; exit 1`)
	if err != nil {
		return fmt.Errorf("find the interpreter of hosts: %w", err)
	}
	version := strings.TrimPrefix(filepath.Base(strings.TrimSpace(string(out))), "python")
	dir, _, err := bootstrap.Wheelhouse(ctx, cache, bootstrap.WheelsFor{
		Lock: worker.Requirements, OS: runtime.GOOS, Arch: runtime.GOARCH, Python: version, Interpreter: b.interpreter,
		Progress: func(line string) { fmt.Fprintln(os.Stderr, line) },
	})
	if err != nil {
		return err
	}
	return l.Operator.PutFolder(ctx, dir, ".cache/mlxctl/wheels/"+filepath.Base(dir))
}

// formed is what one `up` says of itself.
type formed struct {
	seconds          float64
	serving, changed int
	// steps are the seconds of each step of all hosts together; they are done at the same time.
	steps map[string]float64
}

// ours is the share of what hosts spent on anything but making the workers' environment and the first answer, which are
// pip's, the imports of mlx-lm and the model.
func (f *formed) ours() float64 {
	var ours, all float64
	for step, seconds := range f.steps {
		all += seconds
		if step != plan.StepPython && step != plan.StepProve {
			ours += seconds
		}
	}
	if all == 0 {
		return 0
	}
	return ours / all
}

func up(ctx context.Context, l *lab.Lab) (*formed, error) {
	began := time.Now()
	out, err := l.Operator.Exec(ctx, l.Operator.User, "mlxctl", "up", "--yes", "-o", "json", "-q",
		"--parallel", strconv.Itoa(upHosts))
	if err != nil {
		return nil, fmt.Errorf("mlxctl up: %w", err)
	}
	return readFormed(out, time.Since(began))
}

// readFormed adds up what `up -o json` said, a line each.
func readFormed(out []byte, took time.Duration) (*formed, error) {
	f := &formed{seconds: took.Seconds(), steps: map[string]float64{}}
	for line := range bytes.Lines(out) {
		var e struct {
			Type    string     `json:"type"`
			Step    string     `json:"step"`
			State   plan.State `json:"state"`
			TookMS  float64    `json:"took_ms"`
			Serving int        `json:"serving"`
			Changed any        `json:"changed"` // how many in the summary, and whether for a host
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("read what up says: %w", err)
		}
		switch {
		case e.Type == "step" && e.State != plan.StateRunning:
			f.steps[e.Step] += e.TookMS / 1000
		case e.Type == "summary":
			changed, _ := e.Changed.(float64)
			f.serving, f.changed = e.Serving, int(changed)
		}
	}
	return f, nil
}
