package agent_test

import (
	"math"
	"testing"

	"github.com/mlxctl/mlxctl/internal/bus"
	"github.com/mlxctl/mlxctl/internal/cluster"
	"github.com/mlxctl/mlxctl/mlxbridge/enginetest"
)

func curveOf(t *testing.T, script enginetest.Script) *cluster.Curve {
	t.Helper()
	c, _, _ := pair(t, script, nil)
	if err := c.load(bus.LoadRequest{Model: "tiny"}); err != nil {
		t.Fatal(err)
	}
	b := wait(t, c.beats, "heartbeat with a ready replica", func(b bus.Heartbeat) bool {
		return len(b.Replicas) == 1 && b.Replicas[0].State == cluster.ReplicaReady
	})
	return b.Replicas[0].Curve
}

func TestReplicaHasTheSpeedThatItsChipPromises(t *testing.T) {
	t.Parallel()
	got := curveOf(t, enginetest.Script{})
	if got == nil || got.Measured {
		t.Fatalf("the speed is %+v", got)
	}
	// An M4 launches the two layers of tiny in 50 µs each, reads 1.5 MB of weights and 512 tokens of keys and values, of
	// 2048 bytes each or half of that, at 0.95 × 120 GB/s.
	layers, weights, keys := 0.1, 1509120/114e6, 512*2048/114e6
	if ms := got.StepMS(1); ms < layers+weights+keys/2-0.001 || ms > layers+weights+keys+0.001 {
		t.Errorf("a step takes %v ms", ms)
	}
	// 0.72 of 3.7 TFLOPS, at two operations for each of its 754,560 parameters.
	if rate := got.PrefillRate(1); math.Abs(rate/(0.72*3.7e12/2/754560)-1) > 0.01 {
		t.Errorf("prompts are computed at %v tokens a second", rate)
	}
}

func TestMeasuredSpeedReplacesTheExpectedOne(t *testing.T) {
	t.Parallel()
	partly := cluster.Curve{Decode: [][2]float64{{1, 7}}, Prefill: [][2]float64{}}
	if got := curveOf(t, enginetest.Script{Curve: &partly}); got == nil || got.StepMS(1) == 7 {
		t.Errorf("half a measurement gives %+v", got)
	}
	whole := cluster.Curve{Decode: [][2]float64{{1, 7}}, Prefill: [][2]float64{{64, 900}}, Measured: true}
	if got := curveOf(t, enginetest.Script{Curve: &whole}); got == nil || !got.Measured || got.StepMS(1) != 7 || got.PrefillRate(64) != 900 {
		t.Errorf("a measurement gives %+v", got)
	}
}
