package agent_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// A real model in a real worker, named as the embedded one and by its folder: the answers are exact, and each worker's
// log is found by its model's name.
func TestRealWorkers(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "my model")
	if err := os.CopyFS(folder, os.DirFS("../internal/library/tiny")); err != nil {
		t.Fatal(err)
	}
	environment := enginetest.Environment(t)
	c, _, n := pair(t, enginetest.Script{}, func(o *agent.Options) {
		o.Launcher = mlxbridge.NewWorkerLauncher(mlxbridge.WorkerOptions{
			Environment: environment, CacheDir: enginetest.CacheDir(t), LogDir: filepath.Join(o.Home, "log"),
		})
	})
	for _, model := range []string{"tiny", folder} {
		q := count(20)
		q.Request.Prompt = nil
		q.Request.Messages = []cluster.Message{{Role: "user", Content: "Count from 1 to 20."}}
		q.Model.Name = model
		if got, err := c.infer(q); err != nil || got != enginetest.Counted(1, 20) {
			t.Errorf("%s: got %q, %v", model, got, err)
		}
		if _, err := lines(t, c, bus.LogsRequest{Source: "worker-" + model}); err != nil { // it may be empty
			t.Errorf("%s: no log: %v", model, err)
		}
	}
	b := wait(t, c.beats, "heartbeat with both", func(b bus.Heartbeat) bool {
		return len(b.Replicas) == 2 && b.Replicas[0].WorkerPID != 0 && b.Replicas[1].WorkerPID != 0
	})
	for _, r := range b.Replicas {
		if r.Context != n.Models[0].Context || r.Digest != n.Models[0].Digest {
			t.Errorf("replica is %+v, the library says %+v", r, n.Models[0])
		}
	}
}
