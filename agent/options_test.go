package agent_test

import (
	"sync/atomic"
	"testing"

	"github.com/mlxctl/mlxctl/agent"
	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

// What the machine says of its memory reaches every worker, at once when it changes.
func TestPressureReachesTheWorkers(t *testing.T) {
	t.Parallel()
	var pressure atomic.Int64
	c, r, _ := pair(t, enginetest.Script{}, func(o *agent.Options) { o.Monitor = fakeMonitor{pressure: &pressure} })
	if got, err := c.infer(count(3)); err != nil || got != enginetest.Counted(1, 3) {
		t.Fatalf("%q, %v", got, err)
	}
	told := func(level int) {
		t.Helper()
		pressure.Store(int64(level))
		wait(t, c.beats, "heartbeat after the workers were told", func(bus.Heartbeat) bool {
			engines := r.launcher.Engines()
			return len(engines) == 1 && engines[0].Told().Pressure == level
		})
	}
	told(2)
	told(4)
	if _, err := c.infer(count(3)); cluster.CodeOf(err) != cluster.CodeBusy {
		t.Errorf("under critical pressure: %v", err)
	}
	told(1)
	if got, err := c.infer(count(3)); err != nil || got != enginetest.Counted(1, 3) {
		t.Errorf("afterwards: %q, %v", got, err)
	}
}

func TestPinnedModelsAreLoadedAtTheStart(t *testing.T) {
	t.Parallel()
	c, r, _ := pair(t, enginetest.Script{}, func(o *agent.Options) {
		o.Models = []mlxbridge.ModelOptions{{Name: "org/none", Pinned: true}, {Name: "tiny", Pinned: true, MaxRows: 3, KVBits: 8}}
	})
	b := wait(t, c.beats, "heartbeat with a replica that is ready", func(b bus.Heartbeat) bool {
		return len(b.Replicas) == 1 && b.Replicas[0].State == cluster.ReplicaReady
	})
	if got := b.Replicas[0]; got.Model != "tiny" || !got.Pinned || got.Slots != 3 {
		t.Errorf("%+v", got)
	}
	if got := r.launcher.Engines()[0].Spec(); got.KVBits != 8 || got.MaxRows != 3 {
		t.Errorf("launched with %+v", got)
	}
}
