package mlxbridge_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
	"github.com/mlxctl/mlxctl/mlxbridge/worker"
)

// damaged is the worker's package with testdata/sitecustomize.py beside it.
func damaged(t *testing.T) fs.FS {
	t.Helper()
	out := fstest.MapFS{}
	err := fs.WalkDir(worker.Source, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(worker.Source, path)
		out[path] = &fstest.MapFile{Data: data}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("testdata/sitecustomize.py")
	if err != nil {
		t.Fatal(err)
	}
	out["sitecustomize.py"] = &fstest.MapFile{Data: data}
	return out
}

// Every way in which a worker can die in the middle of an answer: whoever waits hears of it, and the next request is
// answered by a new worker.
func TestPoolSurvivesEveryDeathOfAWorker(t *testing.T) {
	t.Parallel()
	for fault, says := range map[string]string{
		"step raises":              "[matmul] shapes do not fit",
		"out of memory":            "ran out of memory",
		"Metal out of memory":      "ran out of memory",
		"step hangs":               "said nothing for",
		"steps do nothing":         "had work and did none for",
		"killed":                   "killed by signal 9",
		"stopped":                  "said nothing for",
		"aborts":                   "killed by signal 6",
		"ends as if all were well": "ended with exit code 0",
		"writes garbage":           "broke the protocol",
		"writes half a frame":      "ended with exit code 0",
		"writes no JSON":           "broke the protocol",
		"closes its pipe":          "broke the protocol",
		// These it survives, and so do the answers.
		"step raises once": "",
		"prints":           "",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			p := newFaultyPool(t, fault)
			first := p.ask(t)
			want := enginetest.Counted(1, 60)
			if says == "" {
				if first.Err != nil || first.Text != want {
					t.Errorf("got %q, %v", first.Text, first.Err)
				}
			} else {
				mustCode(t, first.Err, cluster.CodeWorkerCrashed)
				if !strings.Contains(first.Err.Error(), says) {
					t.Errorf("the error does not say %q: %v", says, first.Err)
				}
				if len(first.Text) >= len(want) || !strings.HasPrefix(want, first.Text) {
					t.Errorf("what was emitted is no prefix of the answer: %q", first.Text)
				}
			}
			if _, err := os.Stat(p.armed); err == nil {
				t.Fatal("the fault did not strike")
			}
			if next := p.ask(t); next.Err != nil || next.Text != want {
				t.Errorf("the next request: %q, %v", next.Text, next.Err)
			}
			r := p.Replicas()[0]
			if r.State != cluster.ReplicaReady || (r.Restarts == 1) != (says != "") {
				t.Errorf("the replica is %+v", r)
			}
		})
	}
}

type faultyPool struct {
	*mlxbridge.Pool
	armed string
}

func newFaultyPool(t *testing.T, fault string) *faultyPool {
	t.Helper()
	armed := filepath.Join(t.TempDir(), "armed")
	if err := os.WriteFile(armed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	launcher := mlxbridge.NewWorkerLauncher(mlxbridge.WorkerOptions{
		Environment: enginetest.Environment(t), CacheDir: enginetest.CacheDir(t), LogDir: t.TempDir(), Source: damaged(t),
		Env:   append(os.Environ(), "MLXBRIDGE_TEST_FAULT="+fault, "MLXBRIDGE_TEST_ARMED="+armed),
		Stall: 24 * time.Second,
	})
	pool := mlxbridge.NewPool(mlxbridge.PoolOptions{
		Launcher: launcher, Options: mlxbridge.ModelOptions{Speculate: "off"}, // a step is a token then
	})
	t.Cleanup(func() { mustCode(t, pool.Close(context.WithoutCancel(t.Context())), "") })
	return &faultyPool{pool, armed}
}

func (p *faultyPool) ask(t *testing.T) enginetest.Answer {
	t.Helper()
	spec := enginetest.Tiny(t)
	return enginetest.Collect(t, func(emit func(cluster.Chunk)) error {
		return p.Generate(t.Context(), spec.Model, spec.Dir, enginetest.Count("tiny", 60), emit)
	})
}
